"""Who may be promoted: only a model that is surely better where it counts and surely worse nowhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.evaluation import write_benchmark, write_model

from eolgul.errors import InputError
from eolgul.evaluate.config import EvaluateConfig
from eolgul.evaluation.compare import acceptable, better, compare
from eolgul.evaluation.paired import differences
from eolgul.evaluation.reader import HELD_OUT, read_metrics
from eolgul.evaluation.scores_file import SCORES

Twin = Callable[..., Path]


@pytest.fixture
def twin(evaluation: Path, tmp_path: Path) -> Twin:
    """A copy of the evaluation, with other scores or figures."""

    def make(name: str, scores: Callable[[dict[str, np.ndarray]], None] | None = None, **figures: Any) -> Path:
        out = tmp_path / name
        shutil.copytree(evaluation, out)
        metrics = json.loads((out / "metrics.json").read_text())
        for path, value in figures.items():
            *steps, last = path.split("__")
            place = metrics
            for step in steps:
                place = place[step.replace("held_out", "held-out")]
            place[last] = value
        (out / "metrics.json").write_text(json.dumps(metrics))
        if scores is not None:
            table = pq.read_table(out / "scores.parquet")
            columns = {column: np.asarray(table[column].to_pylist(), dtype=object) for column in table.column_names}
            scores(columns)
            changed = {column: values.tolist() for column, values in columns.items()}
            pq.write_table(pa.table(changed, schema=SCORES), out / "scores.parquet")
        return out

    return make


def genuine(share_refused: float, of: str = "held-out") -> Callable[[dict[str, np.ndarray]], None]:
    """Every person's genuine pairs refused (-1) in this share, accepted (1) otherwise."""

    def change(columns: dict[str, np.ndarray]) -> None:
        rows = np.flatnonzero((columns["set"] == of) & columns["same"].astype(bool))
        columns["similarity"][rows] = np.where(np.arange(len(rows)) % 10 < 10 * share_refused, -1.0, 1.0)

    return change


def mistaken(columns: dict[str, np.ndarray]) -> None:
    columns["correct"][columns["set"] == "lfw"] = False
    genuine(0.1)(columns)


def test_a_surely_better_model_is_promoted(twin: Twin) -> None:
    decision = better(twin("new", genuine(0.1)), twin("old", genuine(0.4)))
    assert decision.promote
    assert "held-out FNMR" in decision.reasons[0] and decision.reasons[0].endswith(": lower")
    assert any("lfw accuracy" in reason and "not worse" in reason for reason in decision.reasons)


def test_a_tie_keeps_the_current_model(evaluation: Path) -> None:
    decision = better(evaluation, evaluation)
    assert not decision.promote
    assert [reason for reason in decision.reasons if "tie keeps" in reason] == decision.reasons


def test_a_difference_within_its_interval_is_a_tie(twin: Twin) -> None:
    """One genuine pair more accepted is lower, but not beyond doubt."""

    def one_more(columns: dict[str, np.ndarray]) -> None:
        genuine(0.4)(columns)
        row = np.flatnonzero((columns["set"] == "held-out") & (columns["similarity"] == -1.0))[0]
        columns["similarity"][row] = 1.0

    decision = better(twin("new", one_more), twin("old", genuine(0.4)))
    assert not decision.promote and "not lower beyond doubt" in decision.reasons[0]


def test_a_worse_model_is_not_promoted(twin: Twin) -> None:
    assert not better(twin("new", genuine(0.4)), twin("old", genuine(0.1))).promote


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scores": mistaken}, "lfw accuracy"),
        ({"sets__held_out__all_pairs__fmr": 0.9}, "held-out FMR"),
        ({"sets__held_out__digest": "0" * 64}, "same held-out pairs"),
        ({"sets__lfw__digest": "0" * 64}, "lfw: the candidate was not measured"),
        ({"calibration__fmr_target": 0.3}, "different false match rates"),
        ({"sets__held_out__auc_interval": [0.45, 0.6]}, "better than chance"),
    ],
)
def test_better_on_held_out_people_is_not_enough(twin: Twin, change: dict[str, Any], reason: str) -> None:
    decision = better(twin("new", **{"scores": genuine(0.1), **change}), twin("old", genuine(0.4)))
    assert not decision.promote
    assert any(reason in one for one in decision.reasons)


def test_the_interval_is_that_of_repeating_the_drawn_people(twin: Twin) -> None:
    new, old = twin("new", genuine(0.1)), twin("old", genuine(0.4))
    found = differences(new, old, (0.5, 0.5), seed=3, resamples=200)["held-out"]["fnmr"]
    table = pq.read_table(new / "scores.parquet").to_pylist()
    ours = [row for row in table if row["set"] == "held-out"]
    theirs = [row for row in pq.read_table(old / "scores.parquet").to_pylist() if row["set"] == "held-out"]
    people = 1 + max(max(row["left_subject"], row["right_subject"]) for row in ours)
    slow = []
    for weight in np.random.default_rng(3).multinomial(people, np.full(people, 1 / people), size=200):
        pairs = [(weight[a["left_subject"]], a, b) for a, b in zip(ours, theirs, strict=True) if a["same"]]
        gaps = [w * ((a["similarity"] < 0.5) - int(b["similarity"] < 0.5)) for w, a, b in pairs]
        slow.append(sum(gaps) / sum(w for w, _, _ in pairs))
    assert found.interval == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=1e-12)
    assert found.difference == pytest.approx(found.candidate - found.current)


def test_two_models_side_by_side(tmp_path: Path, evaluation: Path, model: Path) -> None:
    from eolgul.evaluate.step import evaluate

    told = compare(evaluation, evaluation).to_json()
    assert set(told["sets"]) == {"held-out", "lfw", "own"} and told["promote"] is False
    assert told["sets"]["lfw"]["accuracy"]["interval"] == [0, 0]
    lfw = write_benchmark(tmp_path / "lfw")
    other = write_model(tmp_path / "other", seed=5)
    places = [
        evaluate(of, None, [lfw], tmp_path / name, EvaluateConfig(resamples=20)).path
        for of, name in ((model, "a"), (other, "b"))
    ]
    alone = compare(*places).to_json()
    assert set(alone["sets"]["lfw"]) == {"accuracy"} and alone["promote"] is None
    low, high = alone["sets"]["lfw"]["accuracy"]["interval"]
    assert low <= alone["sets"]["lfw"]["accuracy"]["difference"] <= high
    strangers = evaluate(
        model, None, [write_benchmark(tmp_path / "x", name="x")], tmp_path / "c", EvaluateConfig(resamples=20)
    ).path
    with pytest.raises(InputError, match="no set in common"):
        compare(places[0], strangers)
    (strangers / "scores.parquet").write_bytes(b"none")
    with pytest.raises(InputError, match=r"scores\.parquet"):
        compare(places[0], strangers)


def test_the_first_model_must_beat_chance(evaluation: Path) -> None:
    metrics = read_metrics(evaluation)
    assert acceptable(metrics).promote
    held_out = metrics.sets[HELD_OUT]
    assert held_out.at_threshold is not None
    nobody = held_out.at_threshold.model_copy(update={"fnmr": 1.0})
    for change in ({"auc_interval": None}, {"auc_interval": (0.45, 0.6)}, {"at_threshold": nobody}):
        worse = metrics.model_copy(update={"sets": {HELD_OUT: held_out.model_copy(update=change)}})
        assert not acceptable(worse).promote


def test_metrics_without_the_held_out_set_are_refused(evaluation: Path) -> None:
    metrics = read_metrics(evaluation)
    with pytest.raises(InputError, match="candidate: lack the held-out set"):
        acceptable(metrics.model_copy(update={"sets": {"lfw": metrics.sets["lfw"]}}))
    with pytest.raises(InputError, match="candidate: lack the calibrated threshold"):
        acceptable(metrics.model_copy(update={"calibration": None}))
