"""Recipes are data: read, overridden, and refused when they say something unknown."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from support.places import ROOT

from eolgul.errors import InputError
from eolgul.train.optim import learning_rate
from eolgul.train.recipe import Recipe, about, recipe_names


def test_every_shipped_recipe_loads() -> None:
    assert {"demo", "demo-full", "irse50-ms1m-kface", "mobilefacenet-ms1m-kface"} <= set(recipe_names())
    for name in recipe_names():
        Recipe.load(name)


# What the originals say, by their own names: train.py, config.py and Learner.py of InsightFace_Pytorch; configs/ms1mv2_*.py and
# train_v2.py of arcface_torch. None: there is no such thing (no clipping); "no_batch_norm" and "all": which parameters decay.
INSIGHTFACE_PYTORCH = {
    "lr": 1e-3, "momentum": 0.9, "epochs": 20, "milestones": (12, 15, 18), "clip": None, "s": 64.0, "m": 0.5, "fp16": False,
    "decays": "no_batch_norm", "centre_length": "unit", "warmup": 0, "flip": 0.5, "gradient": "exact", "embedding_size": 512,
}  # fmt: skip
ARCFACE_TORCH = {
    "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "head_decay": 1e-4, "batch": 8 * 128, "power": 2, "clip": ("backbone", 5),
    "s": 64.0, "m": 0.5, "fp16": True, "decays": "all", "centre_length": "small", "warmup": 0, "flip": 0.5,
    "gradient": "straight-through", "embedding_size": 512,
}  # fmt: skip
ORIGINALS: dict[str, dict[str, Any]] = {
    "irse50-ms1m-kface": {
        **INSIGHTFACE_PYTORCH, "network": "irse50", "batch": 96, "weight_decay": 5e-4, "head_decay": 5e-4,
    },
    "mobilefacenet-ms1m-kface": {
        **INSIGHTFACE_PYTORCH, "network": "mobilefacenet", "batch": 200, "weight_decay": 4e-5, "head_decay": 4e-4,
    },
    "iresnet50-ms1m": {**ARCFACE_TORCH, "network": "iresnet50", "epochs": 20},
    "mobilefacenet_wide-ms1m": {**ARCFACE_TORCH, "network": "mobilefacenet_wide", "epochs": 40},
}  # fmt: skip


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_recipe_that_claims_an_originals_run_has_its_values(name: str) -> None:
    recipe = Recipe.load(name)
    ours = {
        "network": recipe.backbone, "lr": learning_rate(recipe, 0), "momentum": recipe.momentum, "epochs": recipe.epochs,
        "batch": recipe.batch_size, "weight_decay": recipe.weight_decay,
        "head_decay": pytest.approx(recipe.weight_decay * recipe.last_decay), "s": recipe.scale, "m": recipe.margin,
        "clip": None if recipe.clip == "none" else (recipe.clip, recipe.clip_norm), "decays": recipe.decay,
        "fp16": {"fp16": True, "fp32": False}[recipe.precision], "centre_length": recipe.head_init,
        "warmup": recipe.warmup_epochs + recipe.margin_warmup_epochs, "flip": recipe.flip, "gradient": recipe.margin_gradient,
        "embedding_size": recipe.embedding_size,
        **({"milestones": recipe.milestones} if recipe.schedule == "step" else {"power": recipe.poly_power}),
    }  # fmt: skip
    assert ours == ORIGINALS[name]
    assert recipe.head == "arcface" and recipe.optimizer == "sgd" and recipe.centers == 1 and recipe.sample == 1
    added = (
        recipe.photometric,
        recipe.saturation,
        recipe.shift,
        recipe.crop,
        recipe.low_resolution,
        recipe.ema,
        recipe.patience,
    )
    assert not any(added)
    assert recipe.choose_by == "tar_at_fmr_1e-4"  # AUC is flat near 1 for such models
    assert recipe.last_layer_fp32 == (recipe.precision == "fp16")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_what_it_is(name: str) -> None:
    said = about(name)
    assert said.source
    if name in ORIGINALS:
        assert len(said.commit) >= 40 and said.files
        # Everything that this project does in its own way for every recipe.
        text = " ".join(said.deviations)
        assert "epoch is chosen" in text and "base_batch" in text and all(": " in line for line in said.deviations)
    else:
        assert said.source.startswith("eolgul's own values") and not said.commit


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_rate_goes_with_the_batch(name: str) -> None:
    whole, half = (Recipe.load(name, [f"batch_size={ORIGINALS[name]['batch'] // part}"]) for part in (1, 2))
    for place in (0.0, 7.5, 13.0):
        assert learning_rate(half, place) == pytest.approx(learning_rate(whole, place) / 2)


@pytest.mark.parametrize("table", ["about = 3", "[about]\nsauce = 'x'", "[about]\nsource = 1", "[about]\nfiles = 'a'"])
def test_a_table_about_is_checked(tmp_path: Path, table: str) -> None:
    (tmp_path / "own.toml").write_text(f"epochs = 2\n{table}\n")
    with pytest.raises(InputError, match=r"own\.toml: about holds"):
        Recipe.load(str(tmp_path / "own.toml"))
    (tmp_path / "own.toml").write_text("epochs = 2\n[about]\nsource = 'mine'\n")
    assert Recipe.load(str(tmp_path / "own.toml")).epochs == 2


def test_every_key_has_a_description() -> None:
    sys.path.insert(0, str(ROOT / "docs" / "generate"))
    try:
        import reference_commands
    finally:
        sys.path.pop(0)
    described = {name: text for name, _, _, text, _ in reference_commands.described_fields(Recipe)}
    assert set(described) == {item.name for item in fields(Recipe)}
    assert [name for name, text in described.items() if len(text) < 5] == []


def test_cosine_with_warm_up() -> None:
    recipe = Recipe.load("demo-full", ["warmup_epochs=1", "epochs=11", "learning_rate=0.2"])
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
        ("clip=head", "clip = 'head', expected one of joint, backbone, none"),
        ("decay=norms", "expected one of weights, no_batch_norm, all"),
        ("margin_gradient=none", "expected one of exact, straight-through"),
        ("head_init=zero", "expected one of small, unit"),
        ("freeze_epochs=7", "freeze_epochs must be below epochs"),
        ("clip_norm=0", "clip_norm must be above 0"),
        ("flip=1.5", "shares"),
        ("batch_size=1", "batch_size must be 2 or more"),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(override: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.load("demo-full", [override])
    assert says in str(caught.value)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('backbone = "ir50"\nmilestones = [3, 5]\n')
    recipe = Recipe.load(str(path), ["margin=0.4", "seed=7"])
    assert (recipe.backbone, recipe.milestones, recipe.margin, recipe.seed) == ("ir50", (3, 5), 0.4, 7)
    path.write_text("backbone = [broken")
    with pytest.raises(InputError, match=r"mine\.toml"):
        Recipe.load(str(path))
