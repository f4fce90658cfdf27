"""How much the demo draws and which recipe learns from it, short and full."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import eolgul.demo
import eolgul.synth
from eolgul.cli.main import app
from eolgul.demo import data
from eolgul.demo.options import FULL, QUICK, DemoOptions
from eolgul.train.recipe import Recipe


def test_what_is_asked_for_replaces_the_usual_amounts(tmp_path: Path) -> None:
    assert DemoOptions(tmp_path).amounts == QUICK
    assert DemoOptions(tmp_path, full=True).amounts == FULL
    asked = DemoOptions(tmp_path, people=14, rec_people=20, recipe="mine.toml").amounts
    assert (asked.people, asked.rec_people, asked.recipe) == (14, 20, "mine.toml")
    assert (asked.images, asked.rec_images, asked.rec_style) == (QUICK.images, QUICK.rec_images, QUICK.rec_style)


@pytest.mark.parametrize("amounts", [QUICK, FULL])
def test_both_recipes_exist_and_the_pairs_fill_ten_folds(amounts: Any) -> None:
    Recipe.load(amounts.recipe)
    assert amounts.bin_pairs % 20 == 0 and amounts.bin_people >= 20


@pytest.mark.parametrize("full", [False, True])
def test_the_amounts_are_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool) -> None:
    asked: dict[str, dict[str, Any]] = {}

    def writer(kind: str) -> Callable[..., dict[str, Any]]:
        def write(out: Path, **arguments: Any) -> dict[str, Any]:
            asked[kind] = arguments
            return {"cached": True, "images": 0, "identities": 0}

        return write

    for kind in ("kface", "rec", "bin"):
        monkeypatch.setattr(eolgul.synth, f"draw_{kind}", writer(kind))
    monkeypatch.setattr(data, "_upload", lambda path, uri: None)
    data.drawn(DemoOptions(tmp_path, full=full), "s3://nowhere", print)
    much = FULL if full else QUICK
    assert (asked["kface"]["people"], asked["kface"]["images_per_person"]) == (much.people, much.images)
    assert asked["rec"]["people"] == much.rec_people and asked["rec"]["images"] == much.rec_images
    assert asked["rec"]["style"] == much.rec_style
    assert (asked["bin"]["people"], asked["bin"]["pairs"]) == (much.bin_people, much.bin_pairs)


def test_the_command_line_hands_on_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[DemoOptions] = []
    monkeypatch.setattr(eolgul.demo, "run", given.append)
    for words in ([], ["--full"], ["--full", "--rec-people", "30"], ["--source", str(tmp_path), "--full"]):
        done = CliRunner().invoke(app, ["demo", *words])
        assert done.exit_code == 0, done.output
    assert [options.amounts for options in given[:2]] == [QUICK, FULL]
    assert given[2].amounts.rec_people == 30 and given[2].amounts.rec_images == FULL.rec_images
    assert given[3].amounts.recipe == "demo-full" and given[3].source == tmp_path


def test_full_and_a_recipe_for_own_photos_are_one_too_many(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["demo", "--source", str(tmp_path), "--full", "--recipe", "demo"])
    assert done.exit_code != 0
    assert "expected one" in str(done.exception)
