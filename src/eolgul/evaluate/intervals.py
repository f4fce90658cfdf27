"""95 % intervals of figures by bootstrap over people, since comparisons that share a face are not independent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.evaluate.all_pairs import ErrorCounts
from eolgul.evaluation.bootstrap import RESAMPLES, Interval, Subjects, draw, percentiles

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
    """Compute 95 % percentile intervals of `fmr`, `fnmr`, `accuracy`, `protocol_accuracy` and `auc`.

    The first three are at the one threshold. Subjects are drawn with replacement: the genuine pairs of a person drawn w
    times have the weight w, the pairs of two people the product of their weights. Without subjects the pairs are drawn
    (Poisson weights). Accuracies keep the set's share of genuine pairs. None where a figure needs a kind of pair that
    the set, or every resample, lacks.
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
                "fmr": fmr,
                "fnmr": fnmr,
                "accuracy": _mix(1 - fnmr, 1 - fmr, share),
                "protocol_accuracy": _mix(right, other_right, protocol_share),
                "auc": wins / (total * other_total),
            }
        for name, values in figures.items():
            drawn.setdefault(name, []).append(values)
    return {name: percentiles(np.concatenate(values)) for name, values in drawn.items()}


def all_pairs_intervals(errors: ErrorCounts, *, seed: int, resamples: int = RESAMPLES) -> dict[str, Interval | None]:
    """Compute 95 % intervals of `fmr` and `fnmr` over subjects where every image was compared with every other.

    A resample with subject weights w has the FMR wAw / wNw, A and N being the passed and all comparisons by pair of
    subjects. N follows from the image counts, so the cost depends on the number of people, not of comparisons.
    """
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

    people = errors.subjects
    matches = csr_array((errors.count.astype(np.float64), (errors.left, errors.right)), shape=(people, people))
    random = np.random.default_rng(seed)
    weight = random.multinomial(people, np.full(people, 1 / people), size=resamples).astype(np.float64)
    images = weight * errors.images
    with np.errstate(invalid="ignore", divide="ignore"):
        compared = (images.sum(axis=1) ** 2 - (images**2).sum(axis=1)) / 2
        fmr = np.einsum("rs,rs->r", weight @ matches, weight) / compared
        fnmr = weight @ errors.misses / (weight @ errors.own)
    return {"fmr": percentiles(fmr), "fnmr": percentiles(fnmr)}


def _mix(genuine: NDArray[Any], impostor: NDArray[Any], share: float) -> NDArray[np.float64]:
    """Combine the rates of both kinds into an accuracy; a set without one kind needs no rate of it."""
    if share == 1:
        return np.asarray(genuine)
    return np.asarray(impostor if share == 0 else share * genuine + (1 - share) * impostor)
