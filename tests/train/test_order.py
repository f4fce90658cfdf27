"""The windowed order: every image as often as in a random one, neighbours read together, the same from any step on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.datasets import make_dataset

from eolgul.dataset import FaceDataset
from eolgul.dataset.reader import joined_ranges
from eolgul.errors import InputError
from eolgul.train.data import TrainingData
from eolgul.train.order import STRETCH, windowed
from eolgul.train.recipe import Recipe
from eolgul.train.runs import Run

WINDOWED = ("read_order=windowed", "read_window=24")


def data(toy: Path, *overrides: str) -> TrainingData:
    recipe = Recipe.load("demo-full", ["batch_size=10", "flip=0.0", "photometric=0.0", "shift=0", *overrides])
    return TrainingData(FaceDataset(toy), recipe, workers=0)


@pytest.mark.parametrize("count", [1, STRETCH - 1, STRETCH, 10_000, 30_001])
@pytest.mark.parametrize("window", [1, 300, 5000, 1 << 20])
def test_every_position_as_often_as_it_is_given(count: int, window: int) -> None:
    rng = np.random.default_rng(count)
    for positions in (np.arange(count), np.sort(rng.integers(0, count, count))):
        mixed = windowed(positions, window, np.random.default_rng([0, 1]))
        assert np.array_equal(np.sort(mixed), positions)
        assert np.array_equal(mixed, windowed(positions, window, np.random.default_rng([0, 1])))


def test_a_window_is_read_in_stretches_and_mixed_as_a_whole() -> None:
    count, window = 200_000, 20 * STRETCH
    mixed = windowed(np.arange(count), window, np.random.default_rng([0, 1]))
    inside = 0.0
    for begin in range(0, count, window):
        own = mixed[begin : begin + window]
        assert len(joined_ranges(own, own + 1, gap=0)) <= window // STRETCH + 1
        inside = max(inside, abs(np.corrcoef(own, np.arange(len(own)))[0, 1]))
    assert inside < 0.1  # where an image lies says nothing about when in its window it comes
    places = np.argsort(mixed)[::STRETCH] / count  # when each stretch comes, which is by chance over all of the epoch
    assert abs(np.corrcoef(places, np.arange(len(places)))[0, 1]) < 0.1
    other = windowed(np.arange(count), window, np.random.default_rng([0, 2]))
    assert abs(np.corrcoef(np.argsort(mixed), np.argsort(other))[0, 1]) < 0.1


@pytest.mark.parametrize("weights", [(), ("source_weights={toy=3.0}",)])
def test_the_order_of_a_run_goes_on_in_the_middle(toy: Path, weights: tuple[str, ...]) -> None:
    given = data(toy, *WINDOWED, *weights)
    random = data(toy, *weights)
    assert not np.array_equal(given.order(0), given.order(1))
    if not weights:
        assert np.array_equal(np.sort(given.order(0)), np.sort(random.order(0)))
    whole, rest = list(given.batches(2)), list(given.batches(2, start=3))
    for one, other in zip(whole[3:], rest, strict=True):
        assert torch.equal(one.faces, other.faces) and torch.equal(one.rows, other.rows)


def test_each_window_is_read_ahead_once_and_before_it_is_needed(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected: list[int] = []
    monkeypatch.setattr(FaceDataset, "expect", lambda _, rows: expected.extend(rows.tolist()))
    for start in (0, 4):
        expected.clear()
        for batch in data(toy, *WINDOWED).batches(1, start=start):
            assert set(batch.rows.tolist()) <= set(expected)
        assert len(expected) == len(set(expected))
    expected.clear()
    list(data(toy).batches(1))
    assert not expected


def test_what_is_expected_is_asked_of_the_kernel_in_few_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make_dataset(tmp_path / "set", step="test", recipe={}, inputs=[], synthetic=True) as writer:
        writer.describe(name="set", identities_known=True, aligned=None)
        for number in range(1000):
            writer.add(f"p/{number}", "p", bytes(700), extension="jpg", size=(1, 1), source="set")
    asked: list[tuple[int, int]] = []
    advise = os.posix_fadvise

    def counted(descriptor: int, begin: int, size: int, advice: int) -> Any:
        asked.append((begin, size))
        return advise(descriptor, begin, size, advice)

    monkeypatch.setattr(os, "posix_fadvise", counted)
    FaceDataset(tmp_path / "set").expect(np.array([*range(100), *range(600, 700), 5]))
    assert len(asked) == 2 and all(100 * 700 <= size < 100 * 3000 for _, size in asked)


def test_the_option_is_a_key_only_where_it_is_used() -> None:
    random, other = Recipe.load("demo-full"), Recipe.load("demo-full", list(WINDOWED))
    assert not {"read_order", "read_window", "embed_flip"} & random.to_json().keys()
    assert Recipe.load("demo-full", ["embed_flip=none"]).to_json()["embed_flip"] == "none"
    assert Recipe.from_json(other.to_json(), "again") == other
    assert Run(random, "d", "fp32").digest != Run(other, "d", "fp32").digest
    for wrong in ("read_order=sorted", "read_window=0"):
        with pytest.raises(InputError, match=r"read_order = 'sorted'|read_window must be above 0"):
            Recipe.load("demo-full", [wrong] if "order" in wrong else ["read_order=windowed", wrong])
    with pytest.raises(InputError, match="read_window is only for read_order windowed"):
        Recipe.load("demo-full", ["read_window=1000"])
