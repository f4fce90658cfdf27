"""Log-likelihood ratios: how strongly a score supports one person against two, and the cost of these ratios.

Logistic calibration with equal weight for both kinds of comparison, so that the ratios carry no prior of the calibration
set (Brümmer and du Preez, "Application-independent evaluation of speaker detection", 2006). Cllr is the mean cost of the
ratios in bits; min Cllr that of the best monotone map, found by the pool-adjacent-violators algorithm: the difference
is what calibration loses. 0 is perfect, 1 is no better than no information.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.model.calibration import LikelihoodMap

_MOST = 200_000  # scores per kind that the logistic fit uses: quantiles of more do not change its two numbers
_EDGE = 700.0  # log-odds beyond this are as good as infinite in float64


def fit(genuine: NDArray[Any], impostor: NDArray[Any]) -> LikelihoodMap:
    """Fit the logistic map of two lists of cosine similarities, neither empty, and compute its cost on them.

    The regularisation is so weak that it matters only for separable scores.
    """
    from sklearn.linear_model import LogisticRegression

    chosen = [_thinned(scores) for scores in (genuine, impostor)]
    scores = np.concatenate(chosen)[:, None]
    same = np.repeat([1, 0], [len(part) for part in chosen])
    logistic = LogisticRegression(C=1e4, class_weight="balanced", max_iter=1000).fit(scores, same)
    fitted = LikelihoodMap(
        slope=float(logistic.coef_[0, 0]),
        offset=float(logistic.intercept_[0]),
        lowest=float(min(genuine.min(), impostor.min())),
        highest=float(max(genuine.max(), impostor.max())),
        cllr=math.nan,
        min_cllr=min_cllr(genuine, impostor),
    )
    return replace(fitted, cllr=cllr(fitted.ratios(genuine), fitted.ratios(impostor)))


def _thinned(scores: NDArray[Any]) -> NDArray[np.float64]:
    values = np.sort(scores.astype(np.float64))
    if len(values) <= _MOST:
        return values
    return np.asarray(values[np.linspace(0, len(values) - 1, _MOST).round().astype(np.int64)])


def cllr(genuine: NDArray[np.float64], impostor: NDArray[np.float64]) -> float:
    """Cost in bits of the natural-log likelihood ratios of genuine and impostor comparisons, neither empty."""
    cost = np.mean(np.logaddexp(0, -genuine)) + np.mean(np.logaddexp(0, impostor))
    return float(cost / (2 * math.log(2)))


def min_cllr(genuine: NDArray[Any], impostor: NDArray[Any]) -> float:
    """Compute Cllr after the best monotone map of these scores (PAV, ties pooled), neither kind empty."""
    from sklearn.isotonic import isotonic_regression

    scores = np.concatenate([genuine, impostor]).astype(np.float64)
    same = np.repeat([1.0, 0.0], [len(genuine), len(impostor)])
    values, index = np.unique(scores, return_inverse=True)
    of_genuine = np.bincount(index, weights=same, minlength=len(values)) / len(genuine)
    of_impostor = np.bincount(index, weights=1 - same, minlength=len(values)) / len(impostor)
    weight = of_genuine + of_impostor  # both kinds have equal weight, whatever their numbers
    posterior = isotonic_regression(of_genuine / weight, sample_weight=weight)
    with np.errstate(divide="ignore"):
        llr = np.clip(np.log(posterior) - np.log1p(-posterior), -_EDGE, _EDGE)
    cost = of_genuine @ np.logaddexp(0, -llr) + of_impostor @ np.logaddexp(0, llr)
    return float(cost / (2 * math.log(2)))
