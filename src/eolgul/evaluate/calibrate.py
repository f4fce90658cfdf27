"""Choose one threshold for a stated false match rate, on people kept out of training, with its uncertainty.

Impostor comparisons share people, so the data supports no false match rate finer than one in the number of pairs of
different people. A requested rate below that is not extrapolated but replaced by the finest supported one, and the
calibration says so (`fmr_basis`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError
from eolgul.evaluate.likelihood import fit
from eolgul.evaluation.jackknife import least_variance_of_fmr, limits, without_each
from eolgul.model.calibration import Calibration

TABLE_ROWS = 2000
_LEAST_TAIL = 2000
_FURTHER = 1.3  # power of the correction of a threshold's optimism: chosen by benchmarks/coverage.py
_BLOCK_CELLS = 4_000_000  # thresholds x people in memory at once: 32 MB
_HISTOGRAM_BINS = 100


@dataclass(frozen=True, slots=True)
class AllPairScores:
    """Scores of every comparison among some people, cosine similarity as float32.

    `genuine` with `genuine_subject`, `impostor` with `impostor_left` and `impostor_right` (int32, 0…subjects-1): one
    entry per comparison. `images` (int64): the number of images of each subject.
    """

    genuine: NDArray[np.float32]
    genuine_subject: NDArray[np.int32]
    impostor: NDArray[np.float32]
    impostor_left: NDArray[np.int32]
    impostor_right: NDArray[np.int32]
    images: NDArray[np.int64]

    @property
    def subjects(self) -> int:
        """The number of people."""
        return len(self.images)

    @property
    def subject_pairs(self) -> int:
        """The number of pairs of different people."""
        return self.subjects * (self.subjects - 1) // 2


def calibrate(pairs: AllPairScores, fmr: float = 1e-4) -> Calibration:
    """Choose the threshold for a false match rate on all comparisons of the calibration people.

    A threshold whose rate is as asked on the people who chose it lets more pass among others: it fits these people. So
    the share that may pass here is lowered until two people, judged by a threshold that the others chose, pass as often
    as was asked (`_allowed`). The threshold lies in the middle of the gap between two scores, so that rounding in another
    runtime changes no verdict. Its interval holds every threshold whose FMR's interval holds the target
    (`eolgul.evaluation.jackknife`); where the people are too few to bound it from above, it ends above the highest
    impostor score.

    Raises:
        InputError: A rate outside (0, 1), fewer than 3 people, or no person with two images.
    """
    if not 0 < fmr < 1:
        raise InputError(f"fmr {fmr}: expected a rate between 0 and 1")
    if pairs.subjects < 3:
        raise InputError(f"{pairs.subjects} calibration people: at least 3 are needed to choose a threshold")
    if len(pairs.genuine) == 0:
        raise InputError("no calibration person has two images, so the false non-match rate is unknown")
    floor = 1 / pairs.subject_pairs
    target = max(fmr, floor)
    impostor, genuine = np.sort(pairs.impostor), np.sort(pairs.genuine)
    threshold = threshold_at(genuine, impostor, count=_allowed(pairs, impostor, target))
    similarity, rate = _table(impostor)
    low, high = _fmr_limits(pairs, similarity)
    upper = float(high[np.searchsorted(similarity, threshold, side="right") - 1])
    ends = _threshold_interval(similarity, low, high, target, float(_gap_above(impostor[-1:], genuine, impostor)[0]))
    table = np.maximum(rate, floor)
    least = 3 * floor  # rule of three
    return Calibration(
        threshold=threshold,
        threshold_interval=(min(ends[0], threshold), max(ends[1], threshold)),
        fmr_requested=fmr,
        fmr_target=target,
        fmr_basis="requested" if target == fmr else "finest_supported",
        fmr_floor=floor,
        fmr_observed=_share_from(impostor, threshold),
        fmr_upper=min(1.0, max(upper, least)),
        fnmr_observed=1 - _share_from(genuine, threshold),
        subjects=pairs.subjects,
        genuine_pairs=len(genuine),
        impostor_pairs=len(impostor),
        subject_pairs=pairs.subject_pairs,
        resamples=0,
        table_similarity=tuple(similarity.tolist()),
        table_fmr=tuple(table.tolist()),
        llr=fit(genuine, impostor),
        table_fmr_low=tuple(np.minimum(low, table).tolist()),
        table_fmr_high=tuple(np.clip(np.maximum(high, table), min(1.0, least), 1.0).tolist()),
        histogram_genuine=_histogram(genuine),
        histogram_impostor=_histogram(impostor),
    )


def threshold_at(genuine: NDArray[Any], impostor: NDArray[Any], fmr: float = 0.0, *, count: int | None = None) -> float:
    """Return the threshold (accept at or above) that lets at most the share `fmr` of impostors pass, mid-gap.

    Args:
        genuine: Scores, ascending.
        impostor: Scores, ascending, not empty.
        fmr: The share of impostors that may pass.
        count: The number of impostors that may pass, instead of their share.
    """
    allowed = math.floor(fmr * len(impostor) + 1e-9) if count is None else count
    allowed = min(allowed, len(impostor) - 1)
    highest_refused = impostor[len(impostor) - 1 - allowed]
    return float(_gap_above(np.asarray([highest_refused]), genuine, impostor)[0])


def _share_from(ascending: NDArray[Any], threshold: float) -> float:
    """Return the share of scores at or above a threshold, compared as float64: numpy would round it to float32."""
    return int(np.count_nonzero(ascending.astype(np.float64) >= threshold)) / len(ascending)


def _gap_above(values: NDArray[Any], genuine: NDArray[Any], impostor: NDArray[Any]) -> NDArray[np.float64]:
    """Return the middle between each score and the next higher one of any kind (1 without one), above the score."""
    above = np.full(len(values), np.inf)
    for scores in (genuine, impostor):
        index = np.searchsorted(scores, values, side="right")
        inside = index < len(scores)
        above[inside] = np.minimum(above[inside], scores[index[inside]].astype(np.float64))
    exact = values.astype(np.float64)
    above[np.isinf(above)] = 1.0
    return np.asarray(np.maximum((exact + above) / 2, np.nextafter(exact, np.inf)), dtype=np.float64)


def _table(impostor: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tabulate similarity (ascending) and the FMR of a threshold at it; rows are dense where the FMR is small."""
    count = len(impostor)
    ranks = np.unique(np.geomspace(1, count, TABLE_ROWS - 2).round().astype(np.int64))
    similarity = np.unique(impostor[count - ranks].astype(np.float64))
    rate = (count - np.searchsorted(impostor.astype(np.float64), similarity, side="left")) / count
    top = np.nextafter(similarity[-1], np.inf)  # no impostor scored this high
    return np.append(similarity, top), np.append(rate, 0.0)


def _fmr_limits(
    pairs: AllPairScores, thresholds: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the 95 % interval of the FMR at each threshold (ascending); neither rises with the threshold.

    A bound at one threshold also holds at those above it (upper end) or below it (lower end), where fewer or more pass.
    """
    people, rows = pairs.subjects, len(thresholds)
    row = np.searchsorted(thresholds, pairs.impostor.astype(np.float64), side="right") - 1  # the highest one it reaches
    counted = row >= 0
    own_compared = pairs.images * (pairs.images.sum() - pairs.images)
    low, high = np.empty(rows), np.empty(rows)
    reached = np.zeros(people)  # of the rows above: the comparisons that reach the threshold, by person
    block = max(1, _BLOCK_CELLS // people)
    order = np.argsort(row[counted], kind="stable") if block < rows else slice(None)
    row = row[counted][order]
    sides = [side[counted][order].astype(np.int64) for side in (pairs.impostor_left, pairs.impostor_right)]
    for stop in range(rows, 0, -block):
        start = max(0, stop - block)
        inside = slice(*np.searchsorted(row, [start, stop])) if block < rows else slice(None)
        cells = sum(
            np.bincount((row[inside] - start) * people + side[inside], minlength=(stop - start) * people)
            for side in sides
        )
        own = np.cumsum(np.reshape(cells, (stop - start, people))[::-1], axis=0)[::-1] + reached
        reached = own[0]
        errors = own.sum(axis=1, keepdims=True) / 2
        rate = errors[:, 0] / len(pairs.impostor)
        without = without_each(errors, len(pairs.impostor), own, own_compared)
        least = least_variance_of_fmr(rate, own_compared)
        low[start:stop], high[start:stop] = limits(rate, without, least)
        high[start:stop][rate == 0] = 1.0  # the bound of the rows below holds
        low[start:stop][rate == 1] = max(0.0, 1 - 3 / pairs.subject_pairs)  # rule of three
    return np.maximum.accumulate(low[::-1])[::-1], np.minimum.accumulate(high)


def _threshold_interval(
    similarity: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], target: float, highest: float
) -> tuple[float, float]:
    """Return the range of thresholds whose FMR may be the target: not surely above it, and not surely below.

    `low` and `high` are the ends of the FMR's interval at `similarity` (ascending); `highest` ends the range where the
    people cannot bound it.
    """
    above, below = np.flatnonzero(low > target), np.flatnonzero(high < target)
    return (
        float(similarity[above[-1]] if len(above) else similarity[0]),
        float(similarity[below[0]] if len(below) else highest),
    )


def _histogram(scores: NDArray[np.float32]) -> tuple[int, ...]:
    counts, _ = np.histogram(np.clip(scores, -1, 1), bins=_HISTOGRAM_BINS, range=(-1, 1))
    return tuple(counts.tolist())


def _allowed(pairs: AllPairScores, impostor: NDArray[np.float32], target: float) -> int:
    """Return how many of the impostor comparisons (`impostor`: their scores, ascending) may pass.

    Each comparison is judged by the other people's comparisons: it passes at the share a if no more than that share of
    them score as high. The share a at which the target's share passes in this way has no optimism (cross-validation that
    leaves out both people). The correction is estimated from the same people, and too small where it is most needed,
    when those whom many resemble are missing; hence `_FURTHER`.
    """
    total = len(impostor)
    wanted = math.floor(target * total + 1e-9)
    keep = min(total, max(_LEAST_TAIL, int(20 * target * total)))
    chosen = np.flatnonzero(pairs.impostor >= impostor[total - keep])
    chosen = chosen[np.argsort(-pairs.impostor[chosen], kind="stable")]
    left, right = (side[chosen].astype(np.int64) for side in (pairs.impostor_left, pairs.impostor_right))
    left, right = np.minimum(left, right), np.maximum(left, right)
    rank = np.arange(1, len(chosen) + 1)
    of_person = _rank_within(np.stack([left, right], axis=1).ravel()).reshape(-1, 2).sum(axis=1)
    others = rank - of_person + _rank_within(left * pairs.subjects + right)
    own = pairs.images * (pairs.images.sum() - pairs.images)
    compared = total - own[left] - own[right] + pairs.images[left] * pairs.images[right]
    if wanted >= len(chosen) or not np.all(compared):  # three people: nobody else is left
        return wanted
    share = np.sort(others / compared)[wanted]
    corrected = max(0, math.ceil(share * total) - 1)  # the most that are less than this share
    return wanted if corrected >= wanted else math.floor(wanted * (corrected / wanted) ** _FURTHER)


def _rank_within(key: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many entries up to and including each have the same key."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    first = np.append(True, ordered[1:] != ordered[:-1])
    start = np.maximum.accumulate(np.where(first, np.arange(len(key)), 0))
    rank = np.empty(len(key), dtype=np.int64)
    rank[order] = np.arange(len(key)) - start + 1
    return rank
