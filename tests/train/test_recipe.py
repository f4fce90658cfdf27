"""Recipes are data: read, overridden, and refused when they say something unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from eolgul.errors import InputError
from eolgul.train.optim import learning_rate
from eolgul.train.recipe import Recipe, recipe_names


def test_every_shipped_recipe_loads() -> None:
    assert {"demo", "irse50-ms1m-kface", "mobilefacenet-ms1m-kface"} <= set(recipe_names())
    for name in recipe_names():
        Recipe.load(name)


def test_the_original_recipe_is_the_original() -> None:
    recipe = Recipe.load("irse50-ms1m-kface")
    assert (recipe.backbone, recipe.scale, recipe.margin, recipe.milestones) == ("irse50", 64.0, 0.5, (12, 15, 18))
    assert [learning_rate(recipe, epoch) for epoch in (0, 11.9, 12, 15, 18.5)] == pytest.approx(
        [0.1, 0.1, 0.01, 1e-3, 1e-4]
    )


def test_cosine_with_warm_up() -> None:
    recipe = Recipe.load("demo", ["warmup_epochs=1", "epochs=11", "learning_rate=0.2"])
    assert learning_rate(recipe, 0.5) < learning_rate(recipe, 1.0) == pytest.approx(0.2)
    assert learning_rate(recipe, 6.0) == pytest.approx(0.1)
    assert learning_rate(recipe, 11.0) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("learning_rat=0.1", "unknown key 'learning_rat'"),
        ("epochs=many", "expected a int"),
        ("epochs=0", "epochs must be above 0"),
        ("epochs=true", "expected a int"),
        ("head=magface", "expected one of arcface"),
        ("batch_size", "expected key=value"),
        ("learning_rate=nan", "finite"),
        ("scale=inf", "finite"),
        ("seed=-1", "below 0"),
        ("clip_norm=0", "clip_norm must be above 0"),
        ("flip=1.5", "shares"),
        ("batch_size=1", "batch_size must be 2 or more"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(override: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.load("demo", [override])
    assert says in str(caught.value)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('backbone = "ir50"\nmilestones = [3, 5]\n')
    recipe = Recipe.load(str(path), ["margin=0.4", "seed=7"])
    assert (recipe.backbone, recipe.milestones, recipe.margin, recipe.seed) == ("ir50", (3, 5), 0.4, 7)
    path.write_text("backbone = [broken")
    with pytest.raises(InputError, match=r"mine\.toml"):
        Recipe.load(str(path))
