"""Compute the figures of one set of scored pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eolgul.evaluate import likelihood, protocol
from eolgul.evaluate.acquisition import generalized
from eolgul.evaluate.all_pairs import AllPairCounts, ErrorCounts
from eolgul.evaluate.calibrate import threshold_at
from eolgul.evaluate.intervals import Outcome, all_pairs_intervals, intervals
from eolgul.evaluation.bootstrap import LEVEL, Interval, Subjects
from eolgul.evaluation.schema import (
    FMR_LEVELS,
    Acquisition,
    AllPairs,
    AtThreshold,
    Best,
    Cllr,
    FnmrAtFmr,
    HardPair,
    IntervalMethod,
    SetFigures,
    SetKind,
    Worst,
)
from eolgul.model.calibration import Calibration

WORST = 20


@dataclass(frozen=True, slots=True)
class ScoredSet:
    """Pairs with their scores, N each: manifest rows, `same`, `fold`, cosine similarity and squared distance (float64).

    `subjects` is None where the set does not identify its people. `all_pairs` counts every comparison of the held-out
    people: the pairs of the folds stay within a fold, which with few people leaves few pairs of different people, while
    rates at a threshold chosen elsewhere need no folds. `people` and `groups` are the name and the
    source of every subject of `all_pairs`.
    """

    name: str
    kind: SetKind
    digest: str
    synthetic: bool
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int32]
    similarity: NDArray[np.float64]
    distance: NDArray[np.float64]
    subjects: Subjects | None
    acquisition: Acquisition
    all_pairs: AllPairCounts | None = None
    people: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


def set_figures(scored: ScoredSet, calibration: Calibration | None, *, seed: int, resamples: int) -> SetFigures:
    """Compute all figures of a set; without a calibration there is no threshold, and `at_threshold` is None."""
    same, similarity = scored.same, scored.similarity
    genuine, impostor = np.sort(similarity[same]), np.sort(similarity[~same])
    accuracy, correct = protocol.accuracy(scored.distance, same, scored.fold)
    accepted = similarity >= (math.inf if calibration is None else calibration.threshold)
    sizes = np.bincount(scored.fold)
    outcome = Outcome(same, similarity, accepted, correct, 1 / sizes[scored.fold])
    bounds = intervals(outcome, scored.subjects, seed=seed, resamples=resamples)
    subject_pairs = None if scored.subjects is None else scored.subjects.distinct_pairs(~same)
    at_threshold = None
    if calibration is not None:
        at_threshold = _at_threshold(scored, accepted, calibration.threshold, bounds)
    all_pairs = None
    if scored.all_pairs is not None:
        all_pairs = all_pairs_figures(scored.all_pairs.errors)
    return SetFigures(
        name=scored.name,
        kind=scored.kind,
        digest=scored.digest,
        synthetic=scored.synthetic,
        pairs=len(same),
        genuine=len(genuine),
        impostor=len(impostor),
        folds=len(np.unique(scored.fold)),
        identities=None if scored.subjects is None else scored.subjects.count,
        subject_pairs=subject_pairs,
        accuracy=accuracy.model_copy(update={"interval": bounds["protocol_accuracy"]}),
        tar_at_far=protocol.tar_at_far(scored.distance, same, scored.fold),
        auc=protocol.auc(similarity, same),
        auc_interval=bounds["auc"],
        eer=protocol.eer(similarity, same),
        cllr=_cllr(genuine, impostor, calibration),
        at_threshold=at_threshold,
        best=_best(similarity, same),
        fnmr_at_fmr=fnmr_at_fmr(genuine, impostor, subject_pairs)
        if scored.all_pairs is None
        else _fnmr_at_fmr_of_all(scored.all_pairs),
        all_pairs=all_pairs,
        interval=IntervalMethod(
            level=LEVEL, over="pairs" if scored.subjects is None else "subjects", resamples=resamples
        ),
        acquisition=scored.acquisition,
        generalized=generalized(all_pairs or at_threshold, scored.acquisition, len(same)),
    )


def all_pairs_figures(errors: ErrorCounts) -> AllPairs:
    """Compute FMR and FNMR of the one threshold over every comparison of the people, with intervals over people."""
    false_matches, false_non_matches = int(errors.count.sum()), int(errors.misses.sum())
    bounds = all_pairs_intervals(errors)
    return AllPairs(
        images=int(errors.images.sum()),
        genuine=errors.genuine,
        impostor=errors.impostor,
        subject_pairs=errors.subject_pairs,
        fmr=false_matches / errors.impostor,
        fmr_interval=bounds["fmr"],
        false_matches=false_matches,
        fnmr=false_non_matches / errors.genuine,
        fnmr_interval=bounds["fnmr"],
        false_non_matches=false_non_matches,
    )


def _fnmr_at_fmr_of_all(counts: AllPairCounts) -> list[FnmrAtFmr]:
    reason = f"finer than 1 in {counts.errors.subject_pairs} pairs of different people"
    return [
        FnmrAtFmr(fmr=fmr, fnmr=None, threshold=None, reason=reason)
        if level is None
        else FnmrAtFmr(fmr=fmr, fnmr=level[2], threshold=level[1], reason=None)
        for fmr, level in zip(FMR_LEVELS, counts.levels, strict=True)
    ]


def _cllr(genuine: NDArray[np.float64], impostor: NDArray[np.float64], calibration: Calibration | None) -> Cllr:
    if not len(genuine) or not len(impostor):
        return Cllr(carried=None, min=None)
    carried = None
    if calibration is not None and calibration.llr is not None:
        carried = likelihood.cllr(calibration.llr.ratios(genuine), calibration.llr.ratios(impostor))
    return Cllr(carried=carried, min=likelihood.min_cllr(genuine, impostor))


def _at_threshold(
    scored: ScoredSet,
    accepted: NDArray[np.bool_],
    threshold: float,
    bounds: Mapping[str, Interval | None],
) -> AtThreshold:
    """Count the errors of the one calibrated threshold."""
    same = scored.same
    false_matches = int(np.count_nonzero(accepted & ~same))
    false_non_matches = int(np.count_nonzero(~accepted & same))
    genuine, impostor = int(np.count_nonzero(same)), int(np.count_nonzero(~same))
    return AtThreshold(
        threshold=threshold,
        fmr=false_matches / impostor if impostor else None,
        fmr_interval=bounds["fmr"],
        false_matches=false_matches,
        fnmr=false_non_matches / genuine if genuine else None,
        fnmr_interval=bounds["fnmr"],
        false_non_matches=false_non_matches,
        accuracy=1 - (false_matches + false_non_matches) / len(same),
        accuracy_interval=bounds["accuracy"],
    )


def _best(similarity: NDArray[np.float64], same: NDArray[np.bool_]) -> Best:
    """Find the threshold with the highest accuracy on this set: optimistic, reported to show how thresholds transfer."""
    order = np.argsort(-similarity, kind="stable")
    scores, hits = similarity[order], np.cumsum(same[order])
    cuts = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) + 1  # pairs accepted; equal scores go together
    gain = 2 * hits[cuts - 1] - cuts  # accepted genuine pairs less accepted impostor pairs; 0 for accepting nothing
    best = int(np.argmax(gain))
    cut = int(cuts[best]) if gain[best] > 0 else 0
    if cut == 0:
        threshold = float(np.nextafter(scores[0], np.inf))
    elif cut == len(scores):
        threshold = float(scores[-1])
    else:
        threshold = float((scores[cut - 1] + scores[cut]) / 2)
    accepted = similarity >= threshold
    genuine, impostor = int(np.count_nonzero(same)), int(np.count_nonzero(~same))
    return Best(
        threshold=threshold,
        accuracy=float(np.mean(accepted == same)),
        fmr=int(np.count_nonzero(accepted & ~same)) / impostor if impostor else None,
        fnmr=int(np.count_nonzero(~accepted & same)) / genuine if genuine else None,
    )


def fnmr_at_fmr(
    genuine: NDArray[np.float64],
    impostor: NDArray[np.float64],
    subject_pairs: int | None,
    levels: Sequence[float] = FMR_LEVELS,
) -> list[FnmrAtFmr]:
    """Compute the FNMR at chosen FMRs; None, with the reason, where the comparisons cannot show such a rate.

    Args:
        genuine: Scores, ascending.
        impostor: Scores, ascending.
        subject_pairs: The number of pairs of different people; None where people are unknown.
        levels: The FMRs.
    """
    independent = len(impostor) if subject_pairs is None else subject_pairs
    unit = "impostor pairs" if subject_pairs is None else "pairs of different people"
    rows: list[FnmrAtFmr] = []
    for level in levels:
        reason = None
        if len(genuine) == 0 or len(impostor) == 0:
            reason = "the set lacks genuine or impostor pairs"
        elif level * independent < 1 - 1e-9:
            reason = f"finer than 1 in {independent} {unit}"
        if reason is not None:
            rows.append(FnmrAtFmr(fmr=level, fnmr=None, threshold=None, reason=reason))
            continue
        threshold = threshold_at(genuine, impostor, level)
        fnmr = int(np.count_nonzero(genuine < threshold)) / len(genuine)
        rows.append(FnmrAtFmr(fmr=level, fnmr=fnmr, threshold=threshold, reason=None))
    return rows


def worst(scored: ScoredSet, image_ids: Sequence[str], count: int = WORST) -> Worst:
    """Find the genuine pairs with the lowest similarity and the impostor pairs with the highest, by image id."""
    chosen: dict[str, list[HardPair]] = {}
    for kind, member, sign in (("genuine", scored.same, 1), ("impostor", ~scored.same, -1)):
        rows = np.flatnonzero(member)
        rows = rows[np.argsort(sign * scored.similarity[rows], kind="stable")][:count]
        chosen[kind] = [
            HardPair(
                left=image_ids[scored.left[row]],
                right=image_ids[scored.right[row]],
                similarity=float(scored.similarity[row]),
            )
            for row in rows
        ]
    return Worst(genuine=chosen["genuine"], impostor=chosen["impostor"])
