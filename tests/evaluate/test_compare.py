"""Who may be promoted: only a model that is better where it counts and worse nowhere."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from eolgul.errors import InputError
from eolgul.evaluate.compare import acceptable, better
from eolgul.evaluate.evaluate import read_metrics


@pytest.fixture
def current(evaluation: Path) -> dict[str, Any]:
    return read_metrics(evaluation)


def changed(metrics: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    metrics = copy.deepcopy(metrics)
    *steps, last = path.split(".")
    place = metrics
    for step in steps:
        place = place[step]
    place[last] = value
    return metrics


def improved(metrics: dict[str, Any]) -> dict[str, Any]:
    return changed(metrics, "sets.held-out.at_threshold.fnmr", metrics["sets"]["held-out"]["at_threshold"]["fnmr"] / 2)


def test_a_better_model_is_promoted(current: dict[str, Any]) -> None:
    decision = better(improved(current), current)
    assert decision.promote
    assert any("FNMR" in reason and "lower" in reason for reason in decision.reasons)


def test_a_tie_keeps_the_current_model(current: dict[str, Any]) -> None:
    decision = better(current, current)
    assert not decision.promote
    assert decision.reasons == [reason for reason in decision.reasons if "not lower" in reason]


def test_a_worse_model_is_not_promoted(current: dict[str, Any]) -> None:
    assert not better(current, improved(current)).promote


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("sets.lfw.accuracy.mean", 0.3, "lfw accuracy"),
        ("sets.held-out.all_pairs.fmr", 0.9, "held-out FMR"),
        ("sets.held-out.digest", "0" * 64, "same held-out pairs"),
        ("sets.lfw.digest", "0" * 64, "lfw: the candidate was not measured"),
        ("calibration.fmr_target", 0.3, "different false match rates"),
    ],
)
def test_better_on_held_out_people_is_not_enough(current: dict[str, Any], path: str, value: Any, reason: str) -> None:
    decision = better(changed(improved(current), path, value), current)
    assert not decision.promote
    assert any(reason in one for one in decision.reasons)


def test_a_drop_within_the_interval_is_no_drop(current: dict[str, Any]) -> None:
    low = current["sets"]["lfw"]["accuracy"]["interval"][0]
    assert better(changed(improved(current), "sets.lfw.accuracy.mean", low), current).promote


def test_the_first_model_must_beat_chance(current: dict[str, Any]) -> None:
    assert acceptable(current).promote
    by_chance = changed(current, "sets.held-out.auc_interval", [0.45, 0.6])
    assert not acceptable(by_chance).promote
    assert not better(by_chance, current).promote
    assert not acceptable(changed(current, "sets.held-out.auc_interval", None)).promote
    assert not acceptable(changed(current, "sets.held-out.at_threshold.fnmr", 1.0)).promote


def test_metrics_without_the_held_out_set_are_refused(current: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="candidate"):
        acceptable({"sets": {}})
    with pytest.raises(InputError, match="current model"):
        better(current, {})
