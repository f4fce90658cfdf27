"""The threshold keeps its promise, never promises more than the people allow, and survives the file."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.evaluation import some_pairs

from eolgul.errors import InputError
from eolgul.evaluate.calibrate import AllPairScores, calibrate
from eolgul.evaluate.pairs import score_all_pairs
from eolgul.evaluation.jackknife import fmr_interval
from eolgul.model.calibration import Calibration


def shares(pairs: AllPairScores, threshold: float) -> tuple[float, float]:
    impostor, genuine = pairs.impostor.astype(np.float64), pairs.genuine.astype(np.float64)
    return float(np.mean(impostor >= threshold)), float(np.mean(genuine < threshold))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    people=st.integers(3, 25),
    images=st.integers(2, 6),
    fmr=st.sampled_from([0.2, 0.01, 1e-6]),
)
def test_the_threshold_keeps_the_target_and_says_what_was_seen(seed: int, people: int, images: int, fmr: float) -> None:
    pairs = some_pairs(seed, people, images)
    found = calibrate(pairs, fmr)
    observed, missed = shares(pairs, found.threshold)
    assert observed == pytest.approx(found.fmr_observed, abs=1e-12)
    assert missed == pytest.approx(found.fnmr_observed, abs=1e-12)
    assert observed <= found.fmr_target + 1e-12
    assert found.fmr_target == max(fmr, 2 / (people * (people - 1)))
    assert found.fmr_basis == ("requested" if found.fmr_target == fmr else "finest_supported")
    low, high = found.threshold_interval
    assert low <= found.threshold <= high
    assert found.fmr_upper >= min(1.0, max(found.fmr_observed, 3 / found.subject_pairs)) - 1e-12
    assert Calibration.from_json(found.to_json()) == found  # the table's intervals hold their rates


def passing(pairs: AllPairScores, share: float) -> float:
    """How many pass if each comparison is judged by those of all other people, at `share` of them; written out."""
    passed = 0
    for score, one, two in zip(pairs.impostor, pairs.impostor_left, pairs.impostor_right, strict=True):
        involved = np.isin(pairs.impostor_left, [one, two]) | np.isin(pairs.impostor_right, [one, two])
        passed += np.mean(pairs.impostor[~involved] >= score) <= share
    return float(passed / len(pairs.impostor))


@pytest.mark.parametrize(("people", "images", "fmr"), [(6, 3, 0.2), (9, 2, 0.1), (8, 4, 0.05)])
def test_people_are_judged_by_the_threshold_that_others_chose(people: int, images: int, fmr: float) -> None:
    """The corrected share is the largest at which so judged no more than the target pass; the power goes beyond it."""
    pairs = some_pairs(people, people, images)
    total, wanted = len(pairs.impostor), int(fmr * len(pairs.impostor))
    corrected = max((count for count in range(wanted + 1) if passing(pairs, count / total) <= fmr), default=0)
    accepted = round(calibrate(pairs, fmr).fmr_observed * total)
    assert accepted == int(wanted * (corrected / wanted) ** 1.3)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    images=st.lists(st.integers(1, 5), min_size=3, max_size=12).filter(lambda counts: max(counts) > 1),
    spread=st.sampled_from([0.0, 0.5, 3.0]),
    steps=st.sampled_from([4, 1000]),
    fmr=st.sampled_from([0.4, 0.05, 1e-5]),
)
@pytest.mark.filterwarnings("error")
def test_any_numbers_of_images_and_any_ties(
    seed: int, images: list[int], spread: float, steps: int, fmr: float
) -> None:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(images)), images)
    vectors = random.normal(size=(len(images), 6))[labels] + spread * random.normal(size=(len(labels), 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = score_all_pairs((np.round(vectors * steps) / steps).astype(np.float32), labels)
    found = calibrate(pairs, fmr)
    assert Calibration.from_json(found.to_json()) == found
    assert found.fmr_observed == pytest.approx(shares(pairs, found.threshold)[0])
    assert found.fmr_observed <= min(found.fmr_target, found.fmr_upper) + 1e-12
    assert np.all(np.diff(found.table_fmr_low) <= 0) and np.all(np.diff(found.table_fmr_high) <= 0)


def test_equal_scores_go_together() -> None:
    """Ties at the threshold are all refused: accepting them would break the target."""
    pairs = some_pairs(1)
    rounded = replace(pairs, impostor=np.round(pairs.impostor, 1), genuine=np.round(pairs.genuine, 1))
    found = calibrate(rounded, 0.01)
    assert shares(rounded, found.threshold)[0] <= 0.01


def test_separated_scores_put_the_threshold_between_them() -> None:
    pairs = some_pairs(2)
    apart = replace(pairs, impostor=np.clip(pairs.impostor, -1, 0.2), genuine=np.full_like(pairs.genuine, 0.8))
    found = calibrate(apart, 1e-6)
    assert found.fnmr_observed == 0
    assert found.fmr_observed <= found.fmr_target


def test_the_table_never_understates() -> None:
    pairs = some_pairs(3)
    found = calibrate(pairs, 0.01)
    assert len(found.table_similarity) <= 2000
    assert np.all(np.diff(found.table_fmr) <= 0)
    grid = np.linspace(-1.1, 1.1, 500)
    rates = [found.fmr_at(value) for value in grid]
    assert rates[0] == 1
    assert all(one >= other for one, other in itertools.pairwise(rates))
    for value, rate in zip(grid, rates, strict=True):
        assert rate >= shares(pairs, value)[0] - 1e-12
        assert rate >= found.fmr_floor
    assert found.fmr_at(1.0) == found.fmr_floor == 1 / 190


def test_the_same_scores_give_the_same_calibration() -> None:
    assert calibrate(some_pairs(4)) == calibrate(some_pairs(4))


def test_intervals_of_the_table_are_those_of_one_threshold() -> None:
    """In blocks of any size; and never rising, as the rates do not."""
    pairs = some_pairs(9, people=12, images=3)
    found = calibrate(pairs, 0.01)
    low, high = np.asarray(found.table_fmr_low), np.asarray(found.table_fmr_high)
    assert np.all(np.diff(low) <= 0) and np.all(np.diff(high) <= 0)
    scores, people = pairs.impostor.astype(np.float64), pairs.subjects
    sides = np.concatenate([pairs.impostor_left, pairs.impostor_right])
    ends = []
    for threshold in found.table_similarity:
        passed = scores >= threshold
        own = np.bincount(sides, weights=np.tile(passed, 2), minlength=people)
        ends.append(
            fmr_interval(float(passed.sum()), len(scores), own, np.bincount(sides), found.subject_pairs) or (0.0, 1.0)
        )
    each = np.asarray(ends)
    inside = slice(1, -1)  # the first row is 1, the last 0: rule of three
    assert low[inside] == pytest.approx(
        np.minimum(np.maximum.accumulate(each[::-1, 0])[::-1], found.table_fmr)[inside], abs=1e-12
    )
    assert high[inside] == pytest.approx(
        np.maximum(np.minimum.accumulate(each[:, 1]), 3 / found.subject_pairs)[inside], abs=1e-12
    )


def test_blocks_do_not_change_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = calibrate(some_pairs(3))
    monkeypatch.setattr("eolgul.evaluate.calibrate._BLOCK_CELLS", 130)
    parts = calibrate(some_pairs(3))
    assert parts.table_fmr_low == pytest.approx(whole.table_fmr_low, abs=1e-15)
    assert parts.table_fmr_high == pytest.approx(whole.table_fmr_high, abs=1e-15)


def test_intervals_of_many_pairs_take_seconds() -> None:
    pairs = some_pairs(5, people=80, images=30)
    start = time.monotonic()
    calibrate(pairs)
    assert len(pairs.impostor) == 2_844_000
    assert time.monotonic() - start < 20


def test_the_file_brings_it_back() -> None:
    found = calibrate(some_pairs(6))
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found
    older = found.to_json()
    del older["llr"]
    assert Calibration.from_json(older) == replace(found, llr=None)


def test_the_likelihood_ratio_rises_and_is_held_beyond_what_was_seen() -> None:
    pairs = some_pairs(6)
    ratio = calibrate(pairs).llr
    assert ratio is not None and ratio.slope > 0
    assert 0 <= ratio.min_cllr <= ratio.cllr < 1
    assert ratio.at(2.0) == ratio.at(ratio.highest) and ratio.highest >= float(pairs.genuine.max())
    assert ratio.at(-2.0) == ratio.at(ratio.lowest) < 0 < ratio.at(float(np.median(pairs.genuine)))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": 2}, "format 2"),
        ({"threshold": None}, "TypeError"),
        ({"threshold": float("nan")}, "not finite"),
        ({"fmr_basis": "wish"}, "fmr_basis"),
        ({"fmr_floor": 0.0}, "fmr_floor"),
        ({"llr": {"slope": 1}}, "TypeError"),
        ({"llr": 5}, "calibration"),
        ({"threshold_interval": [0.1]}, "ValueError"),
        ({"threshold_interval": [-1.0, -0.9]}, "outside"),
        ({"table": {"similarity": [0.1, 0.2], "fmr": [0.1]}}, "as many"),
        ({"table": {"similarity": [0.1, 0.2], "fmr": [0.1, 0.2]}}, "never in false match rate"),
        ({"table": {"similarity": [0.2, 0.1], "fmr": [0.2, 0.1]}}, "rise in similarity"),
        ({"table": {"similarity": [], "fmr": []}}, "at least one"),
        ({"table": 3}, "TypeError"),
    ],
)
def test_a_malformed_file_is_refused(change: dict[str, object], match: str) -> None:
    value = calibrate(some_pairs(7)).to_json() | change
    with pytest.raises(InputError, match=match):
        Calibration.from_json(value)


def test_missing_fields_are_named() -> None:
    value = calibrate(some_pairs(7)).to_json()
    del value["fmr_target"]
    with pytest.raises(InputError, match="fmr_target"):
        Calibration.from_json(value)
    with pytest.raises(InputError, match="calibration"):
        Calibration.from_json([])  # type: ignore[arg-type]


def test_too_little_data_is_refused() -> None:
    with pytest.raises(InputError, match="2 calibration people"):
        calibrate(some_pairs(8, people=2))
    with pytest.raises(InputError, match="two images"):
        calibrate(some_pairs(8, people=5, images=1))
    for rate in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            calibrate(some_pairs(8), rate)


@pytest.mark.process
def test_serving_and_the_registry_read_without_heavy_libraries() -> None:
    code = (
        "import sys, eolgul.evaluate.calibrate, eolgul.evaluation.compare, eolgul.evaluate.step;"
        "print([m for m in ('torch', 'onnxruntime', 'matplotlib', 'sklearn', 'scipy', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
