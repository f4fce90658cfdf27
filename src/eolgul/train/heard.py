"""Which keys of a recipe another key leaves without effect."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple


class _Need(NamedTuple):
    """A key has an effect only where `key` has one of `values`; "above 0" stands for every number but 0."""

    key: str
    values: tuple[str, ...]


_ABOVE_0 = ("above 0",)
_MARGINS = ("arcface", "cosface", "adaface", "combined")
NEEDS = {
    "margin": _Need("head", _MARGINS),
    "margin_warmup_epochs": _Need("head", _MARGINS),
    "margin_m1": _Need("head", ("combined",)),
    "margin_m3": _Need("head", ("combined",)),
    "margin_gradient": _Need("head", ("arcface",)),
    "base_batch": _Need("optimizer", ("sgd",)),
    "clip_norm": _Need("clip", ("joint", "backbone")),
    "momentum": _Need("optimizer", ("sgd",)),
    "milestones": _Need("schedule", ("step",)),
    "poly_power": _Need("schedule", ("poly",)),
    "read_window": _Need("read_order", ("windowed",)),
    "low_resolution_side": _Need("low_resolution", _ABOVE_0),
}


def unheard(recipe: Any, given: Collection[str]) -> str:
    """A sentence about the first of the given keys that does nothing in a recipe, or "".

    Args:
        recipe: The whole recipe (`eolgul.train.recipe.Recipe`).
        given: The keys that were set for this run. Those of the recipe's file are not looked at: a run may change the
            optimizer of a file that has a momentum.
    """
    for key in given:
        need = NEEDS.get(key)
        if need is None:
            continue
        value = getattr(recipe, need.key)
        if not (value > 0 if need.values == _ABOVE_0 else value in need.values):
            return f"{key} is only for {need.key} {' or '.join(need.values)}, but {need.key} is {value}"
    return ""
