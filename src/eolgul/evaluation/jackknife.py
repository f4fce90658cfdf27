"""95 % intervals of error rates by leaving out one person at a time; their coverage is measured (benchmarks/coverage.py).

Comparisons that share a person are not independent: a false match rate over all pairs of people is a U-statistic whose
variance is mostly that between people, and the jackknife over people estimates it (Arvesen 1969; for rates of 1:1
matching see Fogliato, Patil and Perona 2023). Three things make the intervals hold with few people and small rates:

- The limits are those of a t distribution on the log-odds scale, whose degrees of freedom follow from the kurtosis of
  what the people contribute: a variance that a few people determine is itself uncertain.
- A false match rate is never taken to vary less between people than `LEAST_SPREAD` says. A sample that lacks the few
  people whom many resemble shows too low a rate and too small a variance at once, so that its own variance cannot tell.
- No error, or nothing but errors, among n independent trials gives a limit of 3/n (rule of three).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.evaluation.bootstrap import LEVEL, Interval

# Least standard deviation of people's shifts of an impostor score, in standard deviations of such scores. With normal
# shifts the coefficient of variation of people's false match rates at the rate r is sqrt(exp((s * z(r))^2) - 1), z being
# the upper quantile of the normal distribution: 1.4 at 1e-2, 2.4 at 1e-3. Chosen by benchmarks/coverage.py.
LEAST_SPREAD = 0.45


def without_each(
    errors: NDArray[Any] | float, compared: float, own_errors: NDArray[Any], own_compared: NDArray[Any]
) -> NDArray[np.float64]:
    """Compute the rate without each person in turn (float64, ... x people); NaN where nothing is left to compare.

    Args:
        errors: The number of errors (a number, or ... x 1).
        compared: The number of comparisons.
        own_errors: The errors among each person's comparisons (... x people).
        own_compared: The number of each person's comparisons (people).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((errors - own_errors) / (compared - own_compared), dtype=np.float64)


def limits(
    rate: NDArray[Any], without: NDArray[np.float64], least_variance: NDArray[Any] | float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the 95 % interval of rates between 0 and 1 (exclusive); other rates give themselves.

    Args:
        rate: The rates (R).
        without: The same without each person (R x people, at least 2 people).
        least_variance: A variance that the jackknife's is not below (R, or one for all).
    """
    from scipy.special import expit, logit, stdtrit  # type: ignore[import-untyped]

    people = without.shape[-1]
    deviation = without - without.mean(axis=-1, keepdims=True)
    second = np.mean(deviation**2, axis=-1)
    variance = np.maximum((people - 1) * second, least_variance)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        kurtosis = np.mean(deviation**4, axis=-1) / second**2
        # The variance of a sample variance is (kurtosis - 1) / people: that of a chi-square with so many degrees.
        degrees = np.clip(np.nan_to_num(2 * people / (kurtosis - 1), nan=np.inf), min(2, people - 1), people - 1)
        middle = logit(rate)
        reach = stdtrit(degrees, (1 + LEVEL) / 2) * np.sqrt(variance) / (rate * (1 - rate))
        low, high = expit(middle - reach), expit(middle + reach)
    inside = (rate > 0) & (rate < 1)
    return np.where(inside, low, rate), np.where(inside, high, rate)


def least_variance_of_fmr(rate: NDArray[Any], own_compared: NDArray[Any]) -> NDArray[np.float64]:
    """Return the variance of false match rates (R) if people differed as `LEAST_SPREAD` says.

    `own_compared`: the number of each person's impostor comparisons (people).
    """
    from scipy.special import ndtri

    share = np.clip(np.minimum(rate, 1 - rate), 1e-300, 0.5)
    relative = np.expm1((LEAST_SPREAD * ndtri(share)) ** 2)
    parts = own_compared / (own_compared.sum() / 2)  # each comparison counts for two people
    return np.asarray(share**2 * relative * np.sum(parts**2), dtype=np.float64)


def fnmr_interval(own_errors: NDArray[Any], own_compared: NDArray[Any]) -> Interval | None:
    """Return the 95 % interval of a rate whose comparisons are of one person each; None with fewer than 2 people.

    Args:
        own_errors: The errors among each person's comparisons (people).
        own_compared: The number of each person's comparisons (people); people without one do not count.
    """
    member = own_compared > 0
    errors, compared = own_errors[member], own_compared[member]
    return _interval(float(errors.sum()), float(compared.sum()), errors, compared, len(errors))


def fmr_interval(
    errors: float, compared: float, own_errors: NDArray[Any], own_compared: NDArray[Any], subject_pairs: int
) -> Interval | None:
    """Return the 95 % interval of a rate whose comparisons are of two people each; None with fewer than 3 people.

    Args:
        errors: The number of false matches.
        compared: The number of comparisons.
        own_errors: The false matches that each person is part of (people).
        own_compared: The comparisons that each person is part of (people); people without one do not count.
        subject_pairs: The number of pairs of different people, for the rule of three.
    """
    member = own_compared > 0
    own_errors, own_compared = own_errors[member], own_compared[member]
    if len(own_compared) < 3:
        return None
    least = least_variance_of_fmr(np.asarray([errors / compared]), own_compared)
    return _interval(errors, compared, own_errors, own_compared, subject_pairs, float(least[0]))


def fmr_difference(
    left: NDArray[np.int64], right: NDArray[np.int64], gap: NDArray[Any], own_compared: NDArray[Any]
) -> tuple[float, Interval | None]:
    """Return by how much one false match rate exceeds another over the same comparisons, with its 95 % interval.

    Both rates rise and fall with the same people, which the jackknife of the difference sees and two intervals do not. Where
    the two are as good, the difference is as often positive as negative, so that a t distribution fits it on its own
    scale. The jackknife counts what belongs to a pair of people twice, once for each; one of the two is taken out again
    (Efron and Stein 1981). The interval is None with fewer than 3 people.

    Args:
        left: The one person of each pair of people whose false matches differ (0…people-1).
        right: The other.
        gap: The pair's false matches at the first rate less those at the second.
        own_compared: The comparisons that each person is part of (people).
    """
    from scipy.special import stdtrit

    people, compared = len(own_compared), own_compared.sum() / 2
    if not compared:
        return 0.0, None
    own_gap = sum(np.bincount(side, weights=gap, minlength=people) for side in (left, right))
    difference = float(gap.sum() / compared)
    without = without_each(float(gap.sum()), compared, np.asarray(own_gap), own_compared)
    without = without[np.isfinite(without)]
    people = len(without)
    if people < 3:
        return difference, None
    deviation = without - without.mean()
    second = float(np.mean(deviation**2))
    of_pairs = float(np.sum(gap.astype(np.float64) ** 2) / compared**2)
    variance = max((people - 1) * second - of_pairs, of_pairs)
    if variance == 0:
        return difference, (difference, difference)
    kurtosis = np.mean(deviation**4) / second**2 if second else 1.0
    degrees = np.clip(2 * people / max(float(kurtosis) - 1, 1e-9), min(2, people - 1), people - 1)
    reach = float(stdtrit(degrees, (1 + LEVEL) / 2) * np.sqrt(variance))
    return difference, (difference - reach, difference + reach)


def _interval(
    errors: float,
    compared: float,
    own_errors: NDArray[Any],
    own_compared: NDArray[Any],
    independent: int,
    least_variance: float = 0.0,
) -> Interval | None:
    if len(own_compared) < 2:
        return None
    rate = errors / compared
    if rate in (0.0, 1.0):
        few = min(1.0, 3 / independent)
        return (0.0, few) if rate == 0 else (1 - few, 1.0)
    without = without_each(errors, compared, own_errors, own_compared)
    without = without[np.isfinite(without)]  # one person may be part of every comparison
    if len(without) < 2:
        return None
    # Nor is it more certain than if all comparisons were independent.
    least_variance = max(least_variance, rate * (1 - rate) / compared)
    low, high = limits(np.asarray([rate]), without[None, :], least_variance)
    return float(low[0]), float(high[0])
