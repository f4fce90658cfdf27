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
from eolgul.evaluation.bootstrap import LEVEL, RESAMPLES
from eolgul.model.calibration import Calibration

TABLE_ROWS = 2000
_BINS = 2000
_BLOCK_CELLS = 4_000_000  # resamples x entries in memory at once: 32 MB
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


def calibrate(pairs: AllPairScores, fmr: float = 1e-4, seed: int = 0, resamples: int = RESAMPLES) -> Calibration:
    """Choose the threshold for a false match rate on all comparisons of the calibration people.

    It is the smallest threshold whose observed FMR is at most the target, moved to the middle of the gap between two
    scores in which it lies, so that rounding in another runtime changes no verdict. Deterministic for a seed.

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
    threshold = threshold_at(genuine, impostor, target)
    entries = _tail(pairs, genuine, impostor, target)
    thresholds, rates, below, above = _bootstrap(
        pairs, entries, target=target, threshold=threshold, seed=seed, resamples=resamples
    )
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(thresholds, [tail, 1 - tail])
    similarity, table = _table(impostor, floor)
    fmr_low, fmr_high = _table_interval(similarity, table, entries.value, below, above, 3 * floor)
    return Calibration(
        threshold=threshold,
        threshold_interval=(min(float(low), threshold), max(float(high), threshold)),
        fmr_requested=fmr,
        fmr_target=target,
        fmr_basis="requested" if target == fmr else "finest_supported",
        fmr_floor=floor,
        fmr_observed=_share_from(impostor, threshold),
        fmr_upper=min(1.0, max(float(np.quantile(rates, LEVEL)), 3 * floor)),
        fnmr_observed=1 - _share_from(genuine, threshold),
        subjects=pairs.subjects,
        genuine_pairs=len(genuine),
        impostor_pairs=len(impostor),
        subject_pairs=pairs.subject_pairs,
        resamples=resamples,
        table_similarity=tuple(similarity.tolist()),
        table_fmr=tuple(table.tolist()),
        llr=fit(genuine, impostor),
        table_fmr_low=tuple(fmr_low.tolist()),
        table_fmr_high=tuple(fmr_high.tolist()),
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


def _table(impostor: NDArray[np.float32], floor: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tabulate similarity (ascending) and the FMR of a threshold at it; rows are dense where the FMR is small."""
    count = len(impostor)
    ranks = np.unique(np.geomspace(1, count, TABLE_ROWS - 2).round().astype(np.int64))
    similarity = np.unique(impostor[count - ranks].astype(np.float64))
    rate = (count - np.searchsorted(impostor.astype(np.float64), similarity, side="left")) / count
    top = np.nextafter(similarity[-1], np.inf)  # no impostor scored this high
    return np.append(similarity, top), np.maximum(np.append(rate, 0.0), floor)


def _table_interval(
    similarity: NDArray[np.float64],
    rate: NDArray[np.float64],
    value: NDArray[np.float64],
    below: NDArray[np.float64],
    above: NDArray[np.float64],
    least: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the bootstrap interval of each row of the table.

    `value` descends; `below` and `above` are the ends for a threshold at each. Below the resampled tail the relative
    width at its lower end is kept, which is wider than needed: relative errors shrink as rates grow. No upper end is
    less than `least` (rule of three).
    """
    reached = np.searchsorted(-value, -similarity, side="right") - 1  # the last bin at or above the similarity
    inside = reached >= 0
    low = np.where(inside, below[reached], 0.0)
    high = np.where(inside, above[reached], 0.0)
    under = similarity < value[-1]
    if under.any():
        edge = rate[np.searchsorted(similarity, value[-1], side="right") - 1]
        low[under] = rate[under] * (below[-1] / edge)
        high[under] = rate[under] * (above[-1] / edge)
    high = np.minimum(np.maximum.reduce([high, rate, np.full(len(rate), least)]), 1.0)
    return np.minimum(low, rate), np.maximum(high, rate)


def _histogram(scores: NDArray[np.float32]) -> tuple[int, ...]:
    counts, _ = np.histogram(np.clip(scores, -1, 1), bins=_HISTOGRAM_BINS, range=(-1, 1))
    return tuple(counts.tolist())


@dataclass(frozen=True, slots=True)
class _Tail:
    """The highest impostor scores, highest first, as counts by (score bin, subject pair).

    One value per bin: `value` (its highest score: the cautious side), `above` (the threshold just above it), `start`
    (its first entry). One value per entry: the two subjects, and `count`, the number of their comparisons in the bin.
    """

    value: NDArray[np.float64]
    above: NDArray[np.float64]
    start: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    count: NDArray[np.int64]


def _tail(pairs: AllPairScores, genuine: NDArray[np.float32], impostor: NDArray[np.float32], target: float) -> _Tail:
    """Collect the upper tail, which alone decides a threshold for a small FMR.

    It has twenty times the target's share of the scores, and at least 2000.
    """
    keep = min(len(impostor), max(_BINS, int(20 * target * len(impostor))))
    chosen = np.flatnonzero(pairs.impostor >= impostor[len(impostor) - keep])
    chosen = chosen[np.argsort(-pairs.impostor[chosen], kind="stable")]
    scores = pairs.impostor[chosen]
    first = np.flatnonzero(np.append(True, scores[1:] != scores[:-1]))  # where each distinct score starts
    if len(first) > _BINS:
        first = first[np.linspace(0, len(first) - 1, _BINS).round().astype(np.int64)]
    bins = np.searchsorted(first, np.arange(len(scores)), side="right") - 1
    low = np.minimum(pairs.impostor_left[chosen], pairs.impostor_right[chosen]).astype(np.int64)
    high = np.maximum(pairs.impostor_left[chosen], pairs.impostor_right[chosen]).astype(np.int64)
    people = pairs.subjects
    keys, counts = np.unique((bins * people + low) * people + high, return_counts=True)
    entry_bin = keys // people**2
    start = np.flatnonzero(np.append(True, entry_bin[1:] != entry_bin[:-1]))
    value = scores[first]
    above = _gap_above(value, genuine, impostor)
    return _Tail(value.astype(np.float64), above, start, keys // people % people, keys % people, counts)


def _bootstrap(
    pairs: AllPairScores, tail: _Tail, *, target: float, threshold: float, seed: int, resamples: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Resample the subjects.

    A subject drawn w times gives its comparisons with one drawn v times the weight w·v; comparisons between copies of
    one subject are left out. A resample whose threshold lies outside the tail takes the end of the tail.

    Returns:
        The thresholds, and the FMRs at the chosen threshold (float64, one per resample each); the lower and the upper
        end of the FMR's interval at each value of the tail (float64, one per bin each).
    """
    accepted = int(np.count_nonzero(tail.value >= threshold))  # bins the chosen threshold accepts
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK_CELLS // len(tail.count))
    thresholds: list[NDArray[np.float64]] = []
    rates: list[NDArray[np.float64]] = []
    curves: list[NDArray[np.float64]] = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        chance = np.full(pairs.subjects, 1 / pairs.subjects)
        weight = random.multinomial(pairs.subjects, chance, size=size).astype(np.float64)
        images = weight * pairs.images
        total = (images.sum(axis=1) ** 2 - (images**2).sum(axis=1)) / 2
        usable = total > 0  # one subject drawn every time leaves no comparison
        weight, total = weight[usable], total[usable]
        by_entry = weight[:, tail.left] * weight[:, tail.right] * tail.count
        reached = np.cumsum(np.add.reduceat(by_entry, tail.start, axis=1), axis=1)
        over = reached > (target * total + 1e-9)[:, None]
        index = np.where(over.any(axis=1), np.argmax(over, axis=1), len(tail.value) - 1)
        thresholds.append(tail.above[index])
        curves.append(reached / total[:, None])
        rates.append(reached[:, accepted - 1] / total if accepted else np.zeros(len(total)))
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    below, above = np.quantile(np.concatenate(curves), tails, axis=0)
    return np.concatenate(thresholds), np.concatenate(rates), below, above
