"""The whole road in one command: raw data → pipeline → registry → service → verdicts, on this machine."""

from eolgul.demo.road import run

__all__ = ["run"]
