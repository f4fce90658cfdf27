"""Intervals of rates: against leaving people out one by one, at the ends, and never narrower than people allow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eolgul.evaluation.jackknife import fmr_interval, fnmr_interval, least_variance_of_fmr, limits, without_each


def table(seed: int, people: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Errors and comparisons of every two people (symmetric, zero diagonal)."""
    random = np.random.default_rng(seed)
    compared = np.triu(random.integers(1, 30, (people, people)), 1)
    errors = random.binomial(compared, share)
    return errors + errors.T, compared + compared.T


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), people=st.integers(3, 12), share=st.sampled_from([0.02, 0.3, 0.9]))
def test_rates_without_each_person_are_those_of_the_others(seed: int, people: int, share: float) -> None:
    errors, compared = table(seed, people, share)
    found = without_each(errors.sum() / 2, compared.sum() / 2, errors.sum(axis=1), compared.sum(axis=1))
    for person in range(people):
        rest = np.arange(people) != person
        assert found[person] == pytest.approx(errors[rest][:, rest].sum() / compared[rest][:, rest].sum())


@settings(max_examples=100, deadline=None)
@given(
    errors=st.lists(st.integers(0, 6), min_size=2, max_size=30),
    extra=st.lists(st.integers(0, 6), min_size=30, max_size=30),
)
def test_an_interval_holds_its_rate_and_mirrors(errors: list[int], extra: list[int]) -> None:
    own, compared = np.asarray(errors), np.asarray(errors) + np.asarray(extra[: len(errors)])
    found, mirrored = fnmr_interval(own, compared), fnmr_interval(compared - own, compared)
    if np.count_nonzero(compared) < 2:
        assert found is None
        return
    assert found is not None and mirrored is not None
    low, high = found
    assert 0 <= low <= own.sum() / compared.sum() + 1e-12
    assert own.sum() / compared.sum() - 1e-12 <= high <= 1
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_no_error_does_not_mean_no_rate() -> None:
    assert fnmr_interval(np.zeros(60), np.ones(60)) == (0.0, 0.05)
    assert fnmr_interval(np.ones(60), np.ones(60)) == (0.95, 1.0)
    assert fnmr_interval(np.zeros(2), np.ones(2)) == (0.0, 1.0)
    assert fmr_interval(0, 900, np.zeros(10), np.full(10, 180), 45) == (0.0, 3 / 45)


def test_too_few_people_are_unknown_not_certain() -> None:
    assert fnmr_interval(np.array([1]), np.array([4])) is None
    assert fnmr_interval(np.array([1, 0, 0]), np.array([4, 0, 0])) is None  # people without a comparison do not count
    assert fnmr_interval(np.empty(0), np.empty(0)) is None
    assert fmr_interval(1, 9, np.array([1, 1]), np.array([9, 9]), 1) is None


def test_equal_people_are_no_more_certain_than_independent_comparisons() -> None:
    low, high = fnmr_interval(np.full(10, 2), np.full(10, 10)) or (0.2, 0.2)
    reach = 2.262 * np.sqrt(0.2 * 0.8 / 100) / (0.2 * 0.8)  # 9 degrees of freedom, on the log-odds scale
    assert low == pytest.approx(1 / (1 + 4 * np.exp(reach)), abs=1e-3)
    assert high == pytest.approx(1 / (1 + 4 * np.exp(-reach)), abs=1e-3)


def test_one_person_s_errors_are_worth_less_than_everybody_s() -> None:
    many, one = np.full(40, 1), np.zeros(40)
    one[0] = 40
    even, uneven = fnmr_interval(many, np.full(40, 50)), fnmr_interval(one, np.full(40, 50))
    assert even is not None and uneven is not None
    assert uneven[0] < even[0] and uneven[1] > 2 * even[1]


def test_people_s_false_match_rates_are_never_taken_as_equal() -> None:
    """If all people pass alike, the assumed least spread decides; the smaller the rate, the more people differ."""
    own, compared = np.full(20, 38.0), np.full(20, 19 * 100.0)
    low, high = fmr_interval(own.sum() / 2, compared.sum() / 2, own, compared, 190) or (0, 0)
    assert low < 0.02 / 2 and high > 0.02 * 2
    relative = [least_variance_of_fmr(np.asarray([rate]), compared)[0] / rate**2 for rate in (1e-4, 1e-3, 1e-2, 0.1)]
    assert sorted(relative, reverse=True) == relative
    assert relative[2] == pytest.approx(4 / 20 * 1.4**2, rel=0.05)  # a coefficient of variation of 1.4 at 1e-2
    narrow = least_variance_of_fmr(np.asarray([1e-2]), np.full(2000, 1.0))[0]
    assert narrow == pytest.approx(relative[2] * 1e-4 / 100)  # and falls with the number of people


def test_limits_of_many_rates_are_those_of_each() -> None:
    random = np.random.default_rng(0)
    without = random.uniform(0.1, 0.2, (5, 8))
    low, high = limits(np.linspace(0.1, 0.2, 5), without)
    for row in range(5):
        one = limits(np.linspace(0.1, 0.2, 5)[row : row + 1], without[row : row + 1])
        assert (low[row], high[row]) == pytest.approx((one[0][0], one[1][0]))
