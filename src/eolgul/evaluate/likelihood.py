"""How much a score speaks for one person against two: log-likelihood ratios, and what they cost.

Logistic calibration with both kinds of comparison weighing alike, so that no prior of the calibration set stays inside
(Brümmer and du Preez, "Application-independent evaluation of speaker detection", 2006). Cllr is the mean cost of the
ratios in bits; min Cllr that of the best monotone map, found by the pool-adjacent-violators algorithm: the difference
is what calibration loses. 0 is perfect, 1 as good as knowing nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST = 200_000  # scores of a kind that the logistic fit looks at: quantiles of more change its two numbers no further
_EDGE = 700.0  # log-odds beyond this are as good as infinite in float64


@dataclass(frozen=True, slots=True)
class Fit:
    """Natural-log likelihood ratio of a similarity s: `slope` * s + `offset`."""

    slope: float
    offset: float

    def llr(self, similarity: NDArray[Any]) -> NDArray[np.float64]:
        """Log-likelihood ratios (float64, N) of cosine similarities (N)."""
        return np.asarray(self.slope * similarity.astype(np.float64) + self.offset)


def fit(genuine: NDArray[Any], impostor: NDArray[Any]) -> Fit:
    """The logistic map of two sets of scores, neither empty; regularised so little that only separable scores feel it."""
    from sklearn.linear_model import LogisticRegression

    chosen = [_thinned(scores) for scores in (genuine, impostor)]
    scores = np.concatenate(chosen)[:, None]
    same = np.repeat([1, 0], [len(part) for part in chosen])
    found = LogisticRegression(C=1e4, class_weight="balanced", max_iter=1000).fit(scores, same)
    return Fit(float(found.coef_[0, 0]), float(found.intercept_[0]))


def _thinned(scores: NDArray[Any]) -> NDArray[np.float64]:
    values = np.sort(scores.astype(np.float64))
    if len(values) <= _MOST:
        return values
    return np.asarray(values[np.linspace(0, len(values) - 1, _MOST).round().astype(np.int64)])


def cllr(genuine: NDArray[np.float64], impostor: NDArray[np.float64]) -> float:
    """Cost in bits of natural-log likelihood ratios of genuine and impostor comparisons, neither empty."""
    cost = np.mean(np.logaddexp(0, -genuine)) + np.mean(np.logaddexp(0, impostor))
    return float(cost / (2 * math.log(2)))


def min_cllr(genuine: NDArray[Any], impostor: NDArray[Any]) -> float:
    """Cllr after the best monotone map of these very scores (PAV, ties pooled), neither kind empty."""
    from sklearn.isotonic import isotonic_regression

    scores = np.concatenate([genuine, impostor]).astype(np.float64)
    same = np.repeat([1.0, 0.0], [len(genuine), len(impostor)])
    values, place = np.unique(scores, return_inverse=True)
    of_genuine = np.bincount(place, weights=same, minlength=len(values)) / len(genuine)
    of_impostor = np.bincount(place, weights=1 - same, minlength=len(values)) / len(impostor)
    weight = of_genuine + of_impostor  # both kinds weigh alike, whatever their numbers
    posterior = isotonic_regression(of_genuine / weight, sample_weight=weight)
    with np.errstate(divide="ignore"):
        llr = np.clip(np.log(posterior) - np.log1p(-posterior), -_EDGE, _EDGE)
    cost = of_genuine @ np.logaddexp(0, -llr) + of_impostor @ np.logaddexp(0, llr)
    return float(cost / (2 * math.log(2)))
