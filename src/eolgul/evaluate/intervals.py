"""95 % intervals of the figures of a set, over people, since comparisons that share a face are not independent.

Error rates have the intervals of `eolgul.evaluation.jackknife`; accuracies and the area under the curve, which lie far
from 0 and 1 or are not rates of one kind of comparison, those of a bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.evaluate.all_pairs import ErrorCounts
from eolgul.evaluation.bootstrap import RESAMPLES, Interval, Subjects, draw, percentiles
from eolgul.evaluation.jackknife import fmr_interval, fnmr_interval

_BLOCK_CELLS = 4_000_000  # resamples x pairs in memory at once


@dataclass(frozen=True, slots=True)
class Outcome:
    """The pairs of a set (N each) and how they were judged.

    `accepted`: whether the one threshold accepts the pair. `correct`: whether the reference protocol judged it correctly.
    `weight`: its weight in the protocol's mean, in which every fold counts the same whatever its size (None: all equal).
    """

    same: NDArray[np.bool_]
    similarity: NDArray[np.float64]
    accepted: NDArray[np.bool_]
    correct: NDArray[np.bool_]
    weight: NDArray[np.float64] | None = None


def intervals(
    outcome: Outcome, subjects: Subjects | None, *, seed: int, resamples: int = RESAMPLES
) -> dict[str, Interval | None]:
    """Compute 95 % intervals of `fmr`, `fnmr`, `accuracy`, `protocol_accuracy` and `auc`.

    The first three are at the one threshold. The two error rates: by the jackknife over subjects, or over pairs without
    them. The others: percentiles of a bootstrap. Subjects are drawn with replacement: the genuine pairs of a person drawn
    w times have the weight w, the pairs of two people the product of their weights. Without subjects the pairs are drawn
    (Poisson weights). Accuracies keep the set's share of genuine pairs. None where a figure needs a kind of pair, or
    more people, than the set or every resample has.
    """
    drawn: dict[str, list[NDArray[np.float64]]] = {}
    genuine, impostor = np.flatnonzero(outcome.same), np.flatnonzero(~outcome.same)
    impostor = impostor[np.argsort(outcome.similarity[impostor], kind="stable")]
    ascending = outcome.similarity[impostor]
    lower = np.searchsorted(ascending, outcome.similarity[genuine], side="left")
    upper = np.searchsorted(ascending, outcome.similarity[genuine], side="right")
    share = len(genuine) / len(outcome.same)
    counts = np.ones(len(outcome.same)) if outcome.weight is None else outcome.weight
    counted, other_counted = counts[genuine], counts[impostor]
    right_counts, other_right_counts = counted * outcome.correct[genuine], other_counted * outcome.correct[impostor]
    protocol_share = float(counted.sum() / counts.sum())
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK_CELLS // len(outcome.same))
    for start in range(0, resamples, block):
        of_genuine, of_impostor = draw(random, min(block, resamples - start), subjects, genuine, impostor)
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample may lack one kind: NaN, left out below
            total, other_total = of_genuine.sum(axis=1), of_impostor.sum(axis=1)
            fnmr = of_genuine @ ~outcome.accepted[genuine] / total
            fmr = of_impostor @ outcome.accepted[impostor] / other_total
            right = of_genuine @ right_counts / (of_genuine @ counted)
            other_right = of_impostor @ other_right_counts / (of_impostor @ other_counted)
            below = np.concatenate([np.zeros((len(of_impostor), 1)), np.cumsum(of_impostor, axis=1)], axis=1)
            wins = np.einsum("rk,rk->r", of_genuine, below[:, lower] + below[:, upper]) / 2
            figures = {
                "accuracy": _mix(1 - fnmr, 1 - fmr, share),
                "protocol_accuracy": _mix(right, other_right, protocol_share),
                "auc": wins / (total * other_total),
            }
        for name, values in figures.items():
            drawn.setdefault(name, []).append(values)
    bounds = {name: percentiles(np.concatenate(values)) for name, values in drawn.items()}
    return _error_rates(outcome, subjects, genuine, impostor) | bounds


def _error_rates(
    outcome: Outcome, subjects: Subjects | None, genuine: NDArray[np.int64], impostor: NDArray[np.int64]
) -> dict[str, Interval | None]:
    missed, passed = ~outcome.accepted[genuine], outcome.accepted[impostor]
    if subjects is None:  # each pair stands for a person
        return {
            "fmr": fnmr_interval(passed, np.ones(len(passed))),
            "fnmr": fnmr_interval(missed, np.ones(len(missed))),
        }
    left, right, people = subjects.left, subjects.right, subjects.count
    both = np.concatenate([left[impostor], right[impostor]])
    return {
        "fmr": fmr_interval(
            float(passed.sum()),
            float(len(passed)),
            np.bincount(both, weights=np.tile(passed, 2), minlength=people),
            np.bincount(both, minlength=people),
            subjects.distinct_pairs(~outcome.same),
        ),
        "fnmr": fnmr_interval(
            np.bincount(left[genuine], weights=missed, minlength=people), np.bincount(left[genuine], minlength=people)
        ),
    }


def all_pairs_intervals(errors: ErrorCounts) -> dict[str, Interval | None]:
    """Compute 95 % intervals of `fmr` and `fnmr` over subjects where every image was compared with every other."""
    people, sides = errors.subjects, (errors.left, errors.right)
    passed = sum(np.bincount(side, weights=errors.count, minlength=people) for side in sides)
    compared = errors.images * (errors.images.sum() - errors.images)
    return {
        "fmr": fmr_interval(
            float(errors.count.sum()), float(errors.impostor), np.asarray(passed), compared, errors.subject_pairs
        ),
        "fnmr": fnmr_interval(errors.misses, errors.own),
    }


def _mix(genuine: NDArray[Any], impostor: NDArray[Any], share: float) -> NDArray[np.float64]:
    """Combine the rates of both kinds into an accuracy; a set without one kind needs no rate of it."""
    if share == 1:
        return np.asarray(genuine)
    return np.asarray(impostor if share == 0 else share * genuine + (1 - share) * impostor)
