"""The counting protocol against a plain transcription of the published definition, threshold by threshold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eolgul.errors import InputError
from eolgul.evaluate import protocol


def by_the_definition(distance: list[float], same: list[bool], fold: list[int]) -> tuple[float, float, list[float]]:
    """Accuracy as `formats.md` tells it: per fold, try every threshold on the other folds, keep the first best."""
    thresholds = [number * 0.01 for number in range(400)]
    results = []
    for held in sorted(set(fold)):
        best_threshold, best_right = 0.0, -1
        for threshold in thresholds:
            right = sum((d < threshold) == s for d, s, f in zip(distance, same, fold, strict=True) if f != held)
            if right > best_right:
                best_threshold, best_right = threshold, right
        own = [(d < best_threshold) == s for d, s, f in zip(distance, same, fold, strict=True) if f == held]
        results.append(sum(own) / len(own))
    mean = sum(results) / len(results)
    return mean, (sum((one - mean) ** 2 for one in results) / len(results)) ** 0.5, results


def tar_by_the_definition(
    distance: list[float], same: list[bool], fold: list[int], target: float
) -> tuple[float, float, float]:
    """TAR at FAR: the other folds' FAR as a polyline over {0, 0.001, …, 3.999}; walk along it to the target."""
    thresholds = [number * 0.001 for number in range(4000)]
    tars, fars = [], []
    for held in sorted(set(fold)):
        strangers = [d for d, s, f in zip(distance, same, fold, strict=True) if f != held and not s]
        far = [sum(d < t for d in strangers) / len(strangers) for t in thresholds]
        chosen = 0.0
        if max(far) >= target:
            # The last threshold at or below the target starts the segment (a step's end, for a value met exactly).
            start = max(i for i, value in enumerate(far) if value <= target)
            chosen = thresholds[start]
            if far[start] < target:
                slope = (thresholds[start + 1] - thresholds[start]) / (far[start + 1] - far[start])
                chosen += slope * (target - far[start])
        own = [d for d, s, f in zip(distance, same, fold, strict=True) if f == held and s]
        other = [d for d, s, f in zip(distance, same, fold, strict=True) if f == held and not s]
        tars.append(sum(d < chosen for d in own) / len(own))
        fars.append(sum(d < chosen for d in other) / len(other))
    return float(np.mean(tars)), float(np.std(tars)), float(np.mean(fars))


def sample(seed: int, pairs: int, *, ties: bool = False) -> tuple[list[float], list[bool]]:
    random = np.random.default_rng(seed)
    same = random.random(pairs) < 0.5
    distance = np.clip(np.where(same, random.normal(0.9, 0.5, pairs), random.normal(1.8, 0.4, pairs)), 0, 4)
    return (np.round(distance, 2) if ties else distance).tolist(), same.tolist()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), pairs=st.integers(10, 90), ties=st.booleans())
def test_accuracy_equals_the_definition(seed: int, pairs: int, ties: bool) -> None:
    distance, same = sample(seed, pairs, ties=ties)
    fold = protocol.consecutive_folds(pairs).tolist()
    mean, std, folds = by_the_definition(distance, same, fold)
    ours, _ = protocol.accuracy(distance, same)
    assert abs(ours.mean - mean) < 1e-12
    assert abs(ours.std - std) < 1e-12
    assert np.allclose(ours.folds, folds, rtol=0, atol=1e-12)


ADVERSARIAL = {
    "every distance equal": ([1.0] * 20, [True, False] * 10),
    "on the thresholds": ([number * 0.01 for number in range(20)], [True, False] * 10),
    "all same": ([0.1 * number for number in range(20)], [True] * 20),
    "all different": ([0.1 * number for number in range(20)], [False] * 20),
    "the wrong way round": ([3.0] * 10 + [0.5] * 10, [True, False] * 10),
    "at the ends": ([0.0, 4.0] * 10, [True, False] * 10),
    "beyond every threshold": ([3.995, 4.0] * 10, [True, False] * 10),
}


@pytest.mark.parametrize("case", ADVERSARIAL)
def test_adversarial_input_equals_the_definition(case: str) -> None:
    distance, same = ADVERSARIAL[case]
    mean, std, _ = by_the_definition(distance, same, protocol.consecutive_folds(20).tolist())
    ours, _ = protocol.accuracy(distance, same)
    assert abs(ours.mean - mean) < 1e-12
    assert abs(ours.std - std) < 1e-12


@pytest.mark.parametrize(
    ("seed", "ties", "target"), list(itertools.product(range(3), (False, True), (1e-3, 0.05, 0.2, 0.9)))
)
def test_tar_at_far_equals_the_definition(seed: int, ties: bool, target: float) -> None:
    distance, _ = sample(seed, 60, ties=ties)
    same = [True, False] * 30
    expected = tar_by_the_definition(distance, same, protocol.consecutive_folds(60, 5).tolist(), target)
    ours = protocol.tar_at_far(distance, same, folds=5, target=target)
    assert ours.reason is None
    assert (ours.tar, ours.std, ours.far) == pytest.approx(expected, rel=0, abs=1e-12)


def test_tar_on_a_far_met_exactly() -> None:
    """Four impostors in each training part: FAR 0.25 is a value of the step function, not between two."""
    distance = [0.2, 0.5, 0.2, 0.7, 0.2, 0.9, 0.2, 1.1, 0.2, 1.3]
    same = [True, False] * 5
    expected = tar_by_the_definition(distance, same, protocol.consecutive_folds(10, 5).tolist(), 0.25)
    ours = protocol.tar_at_far(distance, same, folds=5, target=0.25)
    assert ours.reason is None
    assert (ours.tar, ours.std, ours.far) == pytest.approx(expected, rel=0, abs=1e-12)


def test_a_far_never_reached_accepts_nothing() -> None:
    """A genuine distance of 0 is refused by the threshold 0 only."""
    ours = protocol.tar_at_far([0.0, 4.0] * 10, [True, False] * 10)
    assert (ours.tar, ours.far) == (0.0, 0.0)


def test_tar_needs_both_kinds_in_every_fold() -> None:
    for same in ([True] * 20, [False] * 20):
        ours = protocol.tar_at_far([1.0] * 20, same)
        assert (ours.tar, ours.std, ours.far) == (None, None, None)
        assert ours.reason == "a fold lacks genuine or impostor pairs"


def test_given_folds_are_kept() -> None:
    distance, same = sample(5, 40)
    fold = np.random.default_rng(0).permutation(np.repeat([7, 3, 11, 2], 10)).tolist()
    mean, _std, folds = by_the_definition(distance, same, fold)
    ours, correct = protocol.accuracy(distance, same, fold)
    assert abs(ours.mean - mean) < 1e-12
    assert np.allclose(ours.folds, folds, rtol=0, atol=1e-12)
    assert abs(float(np.mean(correct)) - mean) < 1e-12  # folds of one size


def test_consecutive_folds_give_the_remainder_to_the_first() -> None:
    assert np.bincount(protocol.consecutive_folds(23)).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]


def refuse(distance: list[float], same: list[bool], fold: list[int] | None, match: str) -> None:
    for measure in (protocol.accuracy, protocol.tar_at_far):
        with pytest.raises(InputError, match=match):
            measure(distance, same, fold)


def test_bad_input_is_refused() -> None:
    refuse([float("nan")] * 10, [True] * 10, None, "not a finite number")
    refuse([0.1, float("inf")] * 5, [True] * 10, None, "pair 1:")
    refuse([-0.1] * 10, [True] * 10, None, "negative")
    refuse([0.1] * 9, [True] * 9, None, "9 pairs are fewer than 10 folds")
    refuse([0.1] * 10, [True] * 9, None, "one length")
    refuse([0.1] * 10, [True] * 10, [0] * 10, "at least 2")
    refuse([0.1] * 10, [True] * 10, [0, 1], "folds for")


def test_auc_and_eer_by_hand() -> None:
    similarity, same = [0.9, 0.8, 0.7, 0.6], [True, False, True, False]
    assert protocol.auc(similarity, same) == pytest.approx(0.75)
    assert protocol.eer(similarity, same) == pytest.approx(0.5)
    assert protocol.eer([0.9, 0.8, 0.2, 0.1], [True, True, False, False]) == pytest.approx(0)
    assert protocol.eer([0.5] * 4, [True, False] * 2) == pytest.approx(0.5)
    assert protocol.auc([0.5] * 4, [True, False] * 2) == pytest.approx(0.5)
    assert protocol.auc([0.5] * 4, [True] * 4) is None
    assert protocol.eer([0.5] * 4, [False] * 4) is None


def test_squared_distance_is_two_less_twice_the_cosine() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    left, right = rows[:4].astype(np.float32), rows[4:].astype(np.float32)
    assert np.allclose(protocol.squared_distance(left, right), 2 - 2 * np.sum(left * right, axis=1), atol=1e-6)
