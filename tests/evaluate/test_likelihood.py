"""Likelihood ratios against a case whose truth is known, and Cllr against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from eolgul.evaluate.likelihood import cllr, fit, min_cllr


def scores(seed: int = 0, genuine: int = 4000, impostor: int = 40000) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(0.6, 0.2, genuine), random.normal(0.1, 0.2, impostor)


def test_two_normal_kinds_give_their_true_ratio() -> None:
    """Of equal spread s, the log ratio is (0.5 / s²) (score - 0.35), whatever the numbers of comparisons."""
    found = fit(*scores())
    assert found.slope == pytest.approx(12.5, rel=0.05)
    assert -found.offset / found.slope == pytest.approx(0.35, abs=0.01)


def test_the_cost_is_its_definition() -> None:
    genuine, impostor = np.array([2.0, -1.0]), np.array([-3.0, 0.5, 0.0])
    by_hand = (
        sum(math.log2(1 + math.exp(-x)) for x in genuine) / 2 + sum(math.log2(1 + math.exp(x)) for x in impostor) / 3
    )
    assert cllr(genuine, impostor) == pytest.approx(by_hand / 2, abs=1e-12)
    assert cllr(np.zeros(5), np.zeros(7)) == pytest.approx(1)


@pytest.mark.parametrize("decimals", [1, 6])
def test_the_minimum_is_that_of_scikit_learn_s_isotonic_regression(decimals: int) -> None:
    genuine, impostor = (np.round(kind, decimals) for kind in scores(1, 200, 900))
    both, same = np.r_[genuine, impostor], np.repeat([1.0, 0.0], [200, 900])
    weights = np.where(same == 1, 1 / 200, 1 / 900)
    posterior = IsotonicRegression().fit(both, same, sample_weight=weights).predict(both)
    with np.errstate(divide="ignore"):
        costs = np.where(same == 1, -np.log2(posterior), -np.log2(1 - posterior))
    expected = float((weights * costs).sum() / 2)
    assert min_cllr(genuine, impostor) == pytest.approx(expected, abs=1e-9)
    found = fit(genuine, impostor)
    assert min_cllr(genuine, impostor) <= cllr(found.ratios(genuine), found.ratios(impostor))


def test_ends() -> None:
    assert min_cllr(np.array([0.8, 0.9]), np.array([0.1, 0.2])) == pytest.approx(0, abs=1e-12)
    assert min_cllr(np.array([0.1, 0.2]), np.array([0.8, 0.9])) == pytest.approx(1)
    assert min_cllr(np.full(3, 0.5), np.full(9, 0.5)) == pytest.approx(1)
    apart = fit(np.array([0.8, 0.9]), np.array([0.1, 0.2]))
    assert math.isfinite(apart.slope) and apart.slope > 0
