"""A run goes on from an equal one of fewer epochs where the schedule allows it, to the bit, and says why where not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from support.training import tiny

from eolgul.train.loop import train
from eolgul.train.optim import learning_rate
from eolgul.train.recipe import Recipe
from eolgul.train.runs import Run, find_beginning

STEP = ["schedule=step", "milestones=[2]"]


def notes(rows: list[dict[str, Any]]) -> list[str]:
    return [row["note"] for row in rows if "note" in row]


def run(toy: Path, out: Path, *options: str, **more: Any) -> tuple[Any, list[str]]:
    rows: list[dict[str, Any]] = []
    made = train(toy, out, recipe=tiny(*options), report=rows.append, workers=0, **more)
    return made, notes(rows)


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (["epochs=2", *STEP], ["epochs=4", *STEP]),
        (
            ["epochs=2", "schedule=step", "milestones=[]"],
            ["epochs=3", "schedule=step", "milestones=[2]", "variants=[]"],
        ),
        (["epochs=1", *STEP, "ema=0.9", "head=adaface"], ["epochs=3", *STEP, "ema=0.9", "head=adaface"]),
        # Cosine changes every rate, but not while the rate still warms up.
        (["epochs=2", "warmup_epochs=2"], ["epochs=4", "warmup_epochs=2"]),
        (["epochs=2", "sample=0.6", *STEP], ["epochs=3", "sample=0.6", *STEP]),
    ],
)
def test_more_epochs_go_on_and_end_as_a_run_of_that_many(
    toy: Path, tmp_path: Path, short: list[str], long: list[str]
) -> None:
    straight, said = run(toy, tmp_path / "straight" / "model", *long)
    assert said == []
    run(toy, tmp_path / "model", *short)
    made, said = run(toy, tmp_path / "model", *long)
    assert len(said) == 1 and said[0].startswith(f"going on from the end of epoch {short[0][-1]} of the same recipe")
    assert made.digest == straight.digest and same_weights(made.path, straight.path)
    metrics = [file.read_text().splitlines() for file in (tmp_path / "checkpoints").glob("*/logs/metrics.jsonl")]
    epochs = [[row["epoch"] for row in map(json.loads, lines) if row["kind"] == "epoch"] for lines in metrics]
    assert sorted(epochs, key=len)[-1] == list(range(1, int(long[0][-1]) + 1))  # the whole story is in one file


def test_a_run_that_was_stopped_within_an_epoch_is_gone_on_with(toy: Path, tmp_path: Path) -> None:
    straight, _ = run(toy, tmp_path / "straight" / "model", "epochs=3", *STEP)
    run(toy, tmp_path / "model", "epochs=2", *STEP, max_steps=8)
    made, said = run(toy, tmp_path / "model", "epochs=3", *STEP)
    assert said[0].startswith("going on from epoch 2, step 2 of the same recipe for 2 epochs")
    assert made.digest == straight.digest


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (
            ["epochs=2"],
            ["epochs=4"],
            "epochs is 4 (2 there), which changes the learning rate from epoch 1 on (schedule cosine)",
        ),
        (["epochs=2", "schedule=poly"], ["epochs=4", "schedule=poly"], "(schedule poly)"),
        (["epochs=3", *STEP], ["epochs=4", "schedule=step", "milestones=[1, 2]"], "learning rate from epoch 2 on"),
        (["epochs=2", *STEP], ["epochs=4", *STEP, "seed=3"], "because seed is 3 (0 there); the checkpoints in"),
        (["epochs=4", *STEP], ["epochs=2", *STEP], "the run there has done 4 epochs, and epochs is 2 now"),
        (
            ["epochs=2", *STEP],
            ["epochs=2", "schedule=cosine", "margin=0.2", "scale=8.0", "flip=0.1", "shift=0"],
            "scale is 8.0 (16.0 there), margin is 0.2 (0.3 there), schedule is cosine (step there) and 2 more",
        ),
    ],
)
def test_what_cannot_be_gone_on_with_says_why(
    toy: Path, tmp_path: Path, before: list[str], after: list[str], says: str
) -> None:
    run(toy, tmp_path / "model", *before)
    straight, _ = run(toy, tmp_path / "straight" / "model", *after)
    made, said = run(toy, tmp_path / "model", *after)
    assert len(said) == 1 and said[0].startswith("starting afresh, because ") and says in said[0]
    assert made.digest == straight.digest


def test_another_dataset_is_said(toy: Path, tmp_path: Path, assembled_writer: Any) -> None:
    import numpy as np

    colours = {name: (20 * number, 250 - 20 * number, 90) for number, name in enumerate("abcdefg")}
    other = assembled_writer(tmp_path / "other", colours, np.random.default_rng(1), ("f", "g"))
    run(toy, tmp_path / "model", "epochs=1")
    _, said = run(other, tmp_path / "model", "epochs=1")
    assert said[0].startswith("starting afresh, because the dataset is another (")


def test_a_damaged_run_is_not_gone_on_with(toy: Path, tmp_path: Path) -> None:
    straight, _ = run(toy, tmp_path / "straight" / "model", "epochs=3", *STEP)
    run(toy, tmp_path / "model", "epochs=2", *STEP)
    for file in (tmp_path / "checkpoints").glob("*/slot-*/*.distcp"):
        file.write_bytes(file.read_bytes()[:-50])
    made, said = run(toy, tmp_path / "model", "epochs=3", *STEP)
    assert said[0].startswith("starting afresh, because") and "damaged" in said[0]
    assert made.digest == straight.digest


def test_checkpoints_that_do_not_say_their_recipe(toy: Path, tmp_path: Path) -> None:
    run(toy, tmp_path / "model", "epochs=1", *STEP)
    (index,) = (tmp_path / "checkpoints").glob("*/checkpoints.json")
    listed = json.loads(index.read_text())
    del listed["run"]
    index.write_text(json.dumps(listed))
    (tmp_path / "checkpoints" / "notes.txt").write_text("not a run")
    (tmp_path / "checkpoints" / "odd").mkdir()
    (tmp_path / "checkpoints" / "odd" / "checkpoints.json").write_text("{")
    _, said = run(toy, tmp_path / "model", "epochs=2", *STEP)
    assert said[0].startswith("starting afresh, because the checkpoints there do not say which recipe they belong to")


RATES = st.fixed_dictionaries(
    {
        "schedule": st.sampled_from(["step", "cosine", "poly"]),
        "epochs": st.integers(1, 5),
        "milestones": st.lists(st.integers(1, 5), max_size=2, unique=True).map(sorted),
        "warmup_epochs": st.sampled_from([0.0, 1.0, 2.5]),
    }
)


@given(before=RATES, more=st.integers(-1, 3), milestones=st.lists(st.integers(1, 6), max_size=2, unique=True).map(sorted),
       done=st.integers(1, 5))  # fmt: skip
def test_gone_on_with_exactly_when_every_rate_so_far_is_the_same(
    before: dict[str, Any], more: int, milestones: list[int], done: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    steps, root = 4, tmp_path_factory.mktemp("runs")
    old = Run(Recipe.from_json(before), "d", "None")
    done = min(done, before["epochs"])
    after = {**before, "epochs": max(1, before["epochs"] + more), "milestones": milestones}
    new = Run(Recipe.from_json(after), "d", "None")
    (root / old.digest).mkdir()
    entry = {"name": "slot-0", "files": {}, "progress": {"epoch": done, "step": 0}, "best": None}
    index = {"format": 1, "recipe": old.digest, "run": old.to_json(), "checkpoints": [entry]}
    (root / old.digest / "checkpoints.json").write_text(json.dumps(index))
    found = find_beginning(str(root), new, steps)
    places = [number / steps for number in range(done * steps)]
    equal = all(learning_rate(old.recipe, place) == learning_rate(new.recipe, place) for place in places)
    if new.digest == old.digest:
        assert found.place is None and found.sentence is None
    else:
        assert (found.place is not None) == (equal and done <= new.recipe.epochs)
        assert found.sentence is not None and found.sentence.startswith(
            "going on" if found.place else "starting afresh"
        )
