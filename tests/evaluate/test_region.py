"""The limits of picture quality, on made-up scores whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import tiny_package

from eolgul.evaluate.degrade import KINDS, NONE
from eolgul.evaluate.quality import sample
from eolgul.evaluate.region import Variant, degraded, find_region, never_rising

BLUR = next(kind for kind in KINDS if kind.name == "blur")
PEOPLE = 60
CALIBRATION = tiny_package.calibration(0.5)  # a stated rate of 0.001


def variant(kind: Any, strength: float, detail: NDArray[np.float64], limit: float, seed: int = 0) -> Variant:
    """One face of each of 60 people, two of the first 20: strangers pass in 1 of 10 pairs when the worse face has less than
    `limit`, and else as often as the threshold says."""
    random = np.random.default_rng(seed)
    labels = np.append(np.arange(PEOPLE), np.arange(20))
    left, right = np.triu_indices(len(labels), 1)
    same = labels[left] == labels[right]
    score = random.normal(0, 0.16, len(left)).clip(-1, 1)  # 0.5 is 3.1 deviations: a rate of 0.001
    worse = np.minimum(detail[left], detail[right]) < limit
    score[worse & (random.random(len(left)) < 0.1)] = 0.6
    score[same] = 0.9
    measures = {"detail": detail, "cut": np.zeros(len(labels)), "norm": 10 + detail}
    return Variant(kind, strength, measures, score.astype(np.float32), left, right, same)


def details(least: float, most: float, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(least, most, PEOPLE + 20)


def test_the_limit_is_where_strangers_begin_to_pass() -> None:
    variants = [variant(NONE, 0.0, details(3, 6, 1), 2.0)] + [
        variant(BLUR, float(number), details(0.5, 4, 10 + number), 2.0, number) for number in range(1, 5)
    ]
    region = find_region(variants, CALIBRATION, {"yaw": (None, 30.0)}, PEOPLE)
    least, most = region.limits["detail"]
    assert most is None and least == pytest.approx(2.0, abs=0.15)
    assert region.limits["yaw"] == (None, 30.0)
    assert region.limits["norm"][0] == pytest.approx(
        0.9 * 12.0, abs=0.2
    )  # a little less than the least norm of a face with enough detail
    assert region.fmr_allowed >= 2 * CALIBRATION.fmr_target
    as_is, *blurred = region.rates
    assert as_is.images_inside == 1.0 and as_is.fnmr == 0.0
    for rate in blurred:
        assert rate.fmr > 0.03 and rate.fmr_inside <= region.fmr_allowed


def test_where_nothing_goes_wrong_the_limit_is_what_was_tried() -> None:
    variants = [variant(NONE, 0.0, details(3, 6, 1), 0.0), variant(BLUR, 1.0, details(0.5, 4, 2), 0.0, 1)]
    region = find_region(variants, CALIBRATION, {}, PEOPLE)
    assert region.limits["detail"][0] == pytest.approx(0.5, abs=0.1)
    assert set(region.limits) == {"detail", "norm"}  # nothing is known of kinds that were not tried


def test_without_norms_there_is_no_limit_of_them() -> None:
    variants = [variant(NONE, 0.0, details(3, 6, 1), 2.0), variant(BLUR, 1.0, details(0.5, 4, 2), 2.0, 1)]
    for item in variants:
        del item.measures["norm"]  # type: ignore[attr-defined]
    assert "norm" not in find_region(variants, CALIBRATION, {}, PEOPLE).limits


def test_rates_that_never_rise() -> None:
    np.testing.assert_allclose(
        never_rising(np.array([0.4, 0.5, 0.1, 0.2]), np.array([1, 1, 1, 3])), [0.45, 0.45, 0.175, 0.175]
    )


def test_every_way_is_tried_and_measured() -> None:
    random = np.random.default_rng(0)
    faces = random.integers(0, 256, (3, 14, 14, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    seen: list[int] = []

    def embed(made: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        seen.append(len(made))
        flat = made.reshape(len(made), -1).astype(np.float32)[:, ::997]
        return flat / np.linalg.norm(flat, axis=1, keepdims=True), np.full(len(made), np.nan, np.float32)

    variants = degraded(faces, np.arange(3), embed)
    assert len(variants) == len(seen) == 1 + sum(len(kind.strengths) for kind in KINDS)
    assert variants[0].kind is NONE and "norm" not in variants[0].measures
    by_kind = {(item.kind.name, item.strength): item.measures for item in variants}
    assert by_kind["cut_top", 0.3]["cut"][0] == pytest.approx(0.3, abs=0.01)
    assert by_kind["shrink", 6.0]["eye_distance"][0] == 6.0
    assert by_kind["noise", 30.0]["noise"].min() > 5 * by_kind["none", 0.0]["noise"].min()
    assert by_kind["dark", 0.1]["brightness"].max() < 20
    again = degraded(faces, np.arange(3), embed)
    assert all(np.array_equal(one.score, other.score) for one, other in zip(variants, again, strict=True))


def test_a_sample_has_two_faces_of_as_many_people_as_possible() -> None:
    labels = np.repeat([7, 3, 5, 9], [1, 2, 6, 4])
    rows = np.arange(100, 113)
    for count, expected in ((4, [2, 2]), (6, [2, 2, 2]), (7, [1, 2, 2, 2]), (50, [1, 2, 4, 6])):
        chosen = sample(rows, labels, count, 0)
        _, of_person = np.unique(labels[chosen - 100], return_counts=True)
        assert sorted(of_person.tolist()) == expected, count
        assert np.array_equal(chosen, sample(rows, labels, count, 0)) and np.all(np.diff(chosen) > 0)
