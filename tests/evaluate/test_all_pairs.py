"""Counting in tiles gives what the whole list of scores gives, and what it holds does not grow with the comparisons."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eolgul.evaluate.all_pairs import BINS, count_all_pairs, similarity_of
from eolgul.evaluate.intervals import all_pairs_intervals
from eolgul.evaluate.metrics import fnmr_at_fmr
from eolgul.evaluate.pairs import score_all_pairs
from eolgul.evaluation.jackknife import least_variance_of_fmr, limits
from eolgul.evaluation.schema import FMR_LEVELS


def faces(seed: int, people: int, images: int, spread: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(people) * 3, images))
    vectors = random.normal(size=(people, 16))[labels // 3] + spread * random.normal(size=(len(labels), 16))
    # Halves of an eighth: sums are exact in float32 whatever the order, so that both ways see the very same scores.
    vectors = np.round(vectors / np.linalg.norm(vectors, axis=1, keepdims=True) * 16) / 16
    return vectors.astype(np.float32) / 2, labels


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6), people=st.integers(3, 12), images=st.integers(2, 6), tile=st.sampled_from([1, 5, 64])
)
def test_equal_to_the_whole_list(seed: int, people: int, images: int, tile: int) -> None:
    """Coarse embeddings give many equal scores, the hard case for thresholds."""
    vectors, labels = faces(seed, people, images)
    threshold = float(np.random.default_rng(seed).uniform(-0.1, 0.3))
    whole = score_all_pairs(vectors, labels)
    found = count_all_pairs(vectors, labels, threshold, FMR_LEVELS, tile=tile)
    counts = found.errors
    assert (counts.genuine, counts.impostor) == (len(whole.genuine), len(whole.impostor))
    assert int(counts.count.sum()) == np.count_nonzero(whole.impostor.astype(np.float64) >= threshold)
    assert int(counts.misses.sum()) == np.count_nonzero(whole.genuine.astype(np.float64) < threshold)
    bins = np.clip((whole.impostor.astype(np.float64) + 1) * BINS / 2, 0, BINS - 1).astype(int)
    assert np.array_equal(found.impostor, np.bincount(bins, minlength=BINS))
    assert found.genuine.sum() == len(whole.genuine)
    values = np.repeat(similarity_of(found.bin), found.genuine)
    assert np.abs(np.sort(values) - np.sort(whole.genuine)).max() <= 1.01 / BINS
    rows = fnmr_at_fmr(
        np.sort(whole.genuine.astype(np.float64)), np.sort(whole.impostor.astype(np.float64)), whole.subject_pairs
    )
    for row, level in zip(rows, found.levels, strict=True):
        assert (level is None) == (row.fnmr is None)
        if level is not None:
            assert level == (row.fmr, row.threshold, row.fnmr)


def test_rates_of_a_part_and_intervals_against_leaving_people_out() -> None:
    vectors, labels = faces(3, 9, 5, spread=1.5)
    counts = count_all_pairs(vectors, labels, 0.02, tile=7).errors
    member = np.arange(9) % 2 == 0
    own = np.isin(labels // 3, np.flatnonzero(member))
    alone = count_all_pairs(vectors[own], labels[own], 0.02).errors
    part = counts.among(member)
    for name in ("images", "misses", "left", "right", "count"):
        assert np.array_equal(getattr(part, name), getattr(alone, name))
    without = []
    for person in range(9):
        rest = counts.among(np.arange(9) != person)
        without.append((rest.count.sum() / rest.impostor, rest.misses.sum() / rest.genuine))
    fmr, fnmr = counts.count.sum() / counts.impostor, counts.misses.sum() / counts.genuine
    least = least_variance_of_fmr(np.asarray([fmr]), counts.images * (counts.images.sum() - counts.images))
    bounds = all_pairs_intervals(counts)
    for name, rate, column, variance in (("fmr", fmr, 0, least), ("fnmr", fnmr, 1, 0.0)):
        low, high = limits(np.asarray([rate]), np.asarray(without)[None, :, column], variance)
        assert bounds[name] == pytest.approx((low[0], high[0]), abs=1e-12)


def test_memory_does_not_grow_with_the_comparisons() -> None:
    def peak(images: int) -> int:
        random = np.random.default_rng(0)
        vectors = random.normal(size=(images, 8)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        tracemalloc.start()
        found = count_all_pairs(vectors, np.arange(images) // 4, 0.999, FMR_LEVELS, tile=256)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.errors.genuine + found.errors.impostor == images * (images - 1) // 2
        return most

    assert peak(4096) < 1.5 * peak(1024)  # sixteen times the comparisons
