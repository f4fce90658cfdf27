"""What examples/add_a_backbone.md says to do, done: its code blocks are the module, the table's lines and the test."""

from __future__ import annotations

import re
import shlex
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from support.training import write_assembled

from eolgul.model.package import ModelPackage
from eolgul.train import backbones
from eolgul.train.loop import train
from eolgul.train.recipe import Recipe

PAGE = Path(__file__).resolve().parents[2] / "examples" / "add_a_backbone.md"
COLOURS = {"toy.a": (200, 60, 60), "toy.b": (60, 200, 60), "toy.c": (60, 60, 200), "toy.d": (180, 180, 40)}


def blocks(language: str) -> list[str]:
    """The page's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps 1 and 2 of the page."""
    imported, entry = (block.removeprefix("+").strip() for block in blocks("diff"))
    match = re.fullmatch(r"from (\S+) import (\w+)", imported)
    assert match is not None
    module = types.ModuleType(match[1])
    exec(blocks("python")[0], module.__dict__)
    monkeypatch.setitem(sys.modules, match[1], module)
    scope: dict[str, object] = {}
    exec(imported, scope)
    for name, network in eval("{" + entry + "}", scope).items():
        monkeypatch.setitem(backbones.BACKBONES, name, network)


def test_the_pages_own_test_passes(added: None) -> None:
    scope: dict[str, object] = {}
    exec(blocks("python")[1], scope)
    tests = [value for name, value in scope.items() if name.startswith("test_") and callable(value)]
    assert len(tests) == 1
    tests[0]()


def test_the_pages_command_trains_a_package(added: None, tmp_path: Path) -> None:
    words = shlex.split(blocks("bash")[0])
    assert words[:4] == ["eolgul", "train", "assembled", "model"]
    changes = [words[index + 1] for index, word in enumerate(words) if word == "--set"]
    small = ["epochs=1", "batch_size=12", "learning_rate=0.01", "scale=16.0", "margin=0.1", "precision=fp32"]
    recipe = Recipe.load(words[words.index("--recipe") + 1], [*changes, *small])
    data = write_assembled(tmp_path / "assembled", COLOURS, np.random.default_rng(0), validation=("toy.c", "toy.d"))
    assert train(data, tmp_path / "model", recipe=recipe, workers=1) is not None
    assert ModelPackage.open(tmp_path / "model").artifact.contents["backbone"] == "tinyface"
