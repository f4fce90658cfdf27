"""The whole road in one command: raw data → pipeline → registry → service → verdicts, on this machine."""

from eolgul.demo.run import run

__all__ = ["run"]
