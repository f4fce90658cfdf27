"""Fixtures: a hand-made model, people and an evaluation of both."""

from support.evaluation import evaluation, model, people

__all__ = ["evaluation", "model", "people"]
