"""A recipe key that another key leaves without effect is refused when a run sets it."""

from __future__ import annotations

from dataclasses import fields

import pytest

from eolgul.errors import InputError
from eolgul.train.heard import NEEDS
from eolgul.train.recipe import Recipe


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["margin_m1=0.9"], "margin_m1 is only for head combined, but head is arcface"),
        (["head=softmax", "margin=0.4"], "margin is only for head arcface or"),
        (["optimizer=adamw", "sample=1.0", "momentum=0.8"], "momentum is only for optimizer sgd"),
        (["schedule=cosine", "milestones=[1, 2]"], "milestones is only for schedule step"),
        (["schedule=step", "poly_power=3"], "poly_power is only for schedule poly"),
        (["low_resolution=0", "low_resolution_side=20"], "low_resolution_side is only for low_resolution above 0"),
    ],
)
def test_a_key_without_effect_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(InputError, match=f"recipe demo-full: {says}"):
        Recipe.load("demo-full", overrides)


def test_keys_with_effect_are_taken() -> None:
    assert Recipe.load("demo-full", ["head=combined", "margin_m1=0.9", "margin=0.3", "margin_m3=0.1"]).margin_m1 == 0.9
    assert Recipe.load("demo-full", ["schedule=poly", "poly_power=3", "low_resolution=0.1", "low_resolution_side=20"])
    # What the file says may be without effect: a run changes the optimizer and leaves the rest.
    assert Recipe.load("demo-full", ["optimizer=adamw", "sample=1.0"]).momentum


def test_the_table_names_keys_of_a_recipe() -> None:
    known = {item.name for item in fields(Recipe)}
    assert {*NEEDS, *(need.key for need in NEEDS.values())} <= known
