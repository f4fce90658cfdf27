"""Fixtures: drawn people and the detector's networks."""

from support.drawn import drawn, kface_tree, networks

__all__ = ["drawn", "kface_tree", "networks"]
