"""Count every comparison among thousands of images in constant memory, without a list of their scores.

The comparisons are tiles of matrix products, one after another. The first pass puts each score into one of `BINS` bins
and counts, by pair of people, the errors of the one threshold. A requested false match rate then determines the bin
that contains its threshold; the second pass keeps the scores of those few bins only, which gives exactly the thresholds
and rates of the whole list.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eolgul.evaluate.calibrate import threshold_at

BINS = 32768  # of similarity -1 to 1: at half a billion comparisons some 16,000 scores share one
TILE = 2048  # images per side: 4 million comparisons at once
_PENDING = 8_000_000  # codes collected before they are counted


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """The errors of one threshold among all comparisons of S people.

    `images` and `misses` (int64, S): each person's images and refused genuine comparisons. `left`, `right`, `count`
    (int64): the pairs of people with impostor comparisons that passed, and the number of those comparisons.
    """

    images: NDArray[np.int64]
    misses: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    count: NDArray[np.int64]

    @property
    def subjects(self) -> int:
        """The number of people."""
        return len(self.images)

    @property
    def subject_pairs(self) -> int:
        """The number of pairs of different people."""
        return self.subjects * (self.subjects - 1) // 2

    @property
    def own(self) -> NDArray[np.int64]:
        """The number of genuine comparisons of each person (int64, S)."""
        return self.images * (self.images - 1) // 2

    @property
    def genuine(self) -> int:
        """The number of genuine comparisons."""
        return int(self.own.sum())

    @property
    def impostor(self) -> int:
        """The number of impostor comparisons."""
        return int(self.images.sum() ** 2 - (self.images**2).sum()) // 2

    def among(self, member: NDArray[np.bool_]) -> ErrorCounts:
        """Count the comparisons among some of the people only (bool, S)."""
        number = np.cumsum(member) - 1
        both = member[self.left] & member[self.right]
        return ErrorCounts(
            self.images[member],
            self.misses[member],
            number[self.left[both]],
            number[self.right[both]],
            self.count[both],
        )


@dataclass(frozen=True, slots=True)
class AllPairCounts:
    """All comparisons: `errors` at the one threshold, and histograms of cosine similarity.

    `impostor` (int64, BINS): the number of scores per bin. `person`, `bin` and `genuine` (int64, one entry per person and
    bin): the number of genuine scores. `levels`: (fmr, threshold, fnmr) of every requested rate that
    `errors.subject_pairs` can show, None for the others.
    """

    errors: ErrorCounts
    impostor: NDArray[np.int64]
    person: NDArray[np.int64]
    bin: NDArray[np.int64]
    genuine: NDArray[np.int64]
    levels: tuple[tuple[float, float, float] | None, ...]


def similarity_of(number: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the middle of bins (float64, N)."""
    return np.asarray((number + 0.5) * (2 / BINS) - 1, dtype=np.float64)


def count_all_pairs(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.integer],
    threshold: float,
    levels: Sequence[float] = (),
    tile: int = TILE,
) -> AllPairCounts:
    """Compare every two images and count, at one threshold and at several false match rates.

    Args:
        embeddings: Unit embeddings, N x D.
        labels: The person of each image, N.
        threshold: A similarity at or above it passes.
        levels: False match rates whose thresholds are wanted.
        tile: Images per side of one matrix product.
    """
    order = np.argsort(labels, kind="stable")  # one person's images adjacent: most tiles then have only impostors
    vectors = embeddings[order]
    _, subject, images = np.unique(labels[order], return_inverse=True, return_counts=True)
    people = len(images)
    impostor = np.zeros(BINS, dtype=np.int64)
    genuine, matches, misses = _Tally(), _Tally(), np.zeros(people, dtype=np.int64)
    for scores, left, right, same in _tiles(vectors, subject, tile):
        bins = _bin(scores)
        if same is None:
            impostor += np.bincount(bins.ravel(), minlength=BINS)
            one, two = np.nonzero(scores.astype(np.float64) >= threshold)
        else:
            kind = same[0]
            impostor += np.bincount(bins[~kind & same[1]], minlength=BINS)
            mine, _ = np.nonzero(kind)
            genuine.add(left[mine].astype(np.int64) * BINS + bins[kind])
            refused = scores[kind].astype(np.float64) < threshold
            misses += np.bincount(left[mine[refused]], minlength=people)
            one, two = np.nonzero((scores.astype(np.float64) >= threshold) & ~kind & same[1])
        matches.add(left[one].astype(np.int64) * people + right[two])
    code, count = matches.counts()
    errors = ErrorCounts(images.astype(np.int64), misses, code // people, code % people, count)
    of_person, of_genuine = genuine.counts()
    of_bin = of_person % BINS
    by_bin = np.bincount(of_bin, weights=of_genuine, minlength=BINS).astype(np.int64)
    rates = _levels(vectors, subject, tile, errors, (by_bin, impostor), levels)
    return AllPairCounts(errors, impostor, of_person // BINS, of_bin, of_genuine, rates)


def _levels(
    vectors: NDArray[np.float32],
    subject: NDArray[np.integer],
    tile: int,
    errors: ErrorCounts,
    histograms: tuple[NDArray[np.int64], NDArray[np.int64]],
    levels: Sequence[float],
) -> tuple[tuple[float, float, float] | None, ...]:
    by_bin, impostor = histograms
    total = int(impostor.sum())
    below = np.concatenate([[0], np.cumsum(impostor)])
    filled = np.flatnonzero(by_bin + impostor)
    wanted: list[tuple[int, int] | None] = []  # the bin of the highest refused impostor, and the next one with a score
    for level in levels:
        if total == 0 or errors.genuine == 0 or level * errors.subject_pairs < 1 - 1e-9:
            wanted.append(None)
            continue
        refused = total - 1 - min(math.floor(level * total + 1e-9), total - 1)
        first = int(np.searchsorted(below, refused, side="right")) - 1
        index = int(np.searchsorted(filled, first, side="right"))
        wanted.append((first, int(filled[index]) if index < len(filled) else first))
    keep = np.zeros(BINS, dtype=bool)
    keep[[number for pair in wanted if pair is not None for number in pair]] = True
    kept: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]] = ([], [])
    if keep.any():
        for scores, _, _, same in _tiles(vectors, subject, tile):
            near = keep[_bin(scores)]
            kind = np.zeros_like(near) if same is None else same[0]
            kept[0].append(scores[near & kind])
            kept[1].append(scores[near & ~kind if same is None else near & ~kind & same[1]])
    scores_near = [np.sort(np.concatenate(part)) if part else np.empty(0, np.float32) for part in kept]
    result: list[tuple[float, float, float] | None] = []
    for level, pair in zip(levels, wanted, strict=True):
        if pair is None:
            result.append(None)
            continue
        own, other = (part[np.isin(_bin(part), pair)] for part in scores_near)
        # Every impostor above the two bins passes, so their scores alone decide the threshold.
        beyond = total - int(below[pair[1] + 1])
        allowed = min(math.floor(level * total + 1e-9), total - 1) - beyond
        threshold = threshold_at(own, other, count=allowed)
        missed = int(by_bin[: pair[0]].sum()) + int(np.count_nonzero(own.astype(np.float64) < threshold))
        result.append((level, threshold, missed / errors.genuine))
    return tuple(result)


def _tiles(
    vectors: NDArray[np.float32], subject: NDArray[np.integer], tile: int
) -> Iterator[
    tuple[
        NDArray[np.float32],
        NDArray[np.integer],
        NDArray[np.integer],
        tuple[NDArray[np.bool_], NDArray[np.bool_]] | None,
    ]
]:
    """Yield (similarities, people of the rows, people of the columns, (genuine, counted)).

    The last item is None where all comparisons are impostors. `counted` leaves out an image with itself and, in a tile on
    the diagonal, the second of two equal comparisons.
    """
    for top in range(0, len(vectors), tile):
        for start in range(top, len(vectors), tile):
            left, right = subject[top : top + tile], subject[start : start + tile]
            scores = vectors[top : top + tile] @ vectors[start : start + tile].T
            if start > top and left[-1] < right[0]:
                yield scores, left, right, None
                continue
            counted = np.ones(scores.shape, dtype=bool)
            if start == top:
                counted = np.triu(counted, 1)
            yield scores, left, right, ((left[:, None] == right) & counted, counted)


def _bin(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the bin of each score; a higher score never gets a lower bin."""
    number = (scores.astype(np.float64) + 1) * (BINS / 2)
    return np.asarray(np.clip(number, 0, BINS - 1), dtype=np.int32)


class _Tally:
    """Count how often each code was added; codes are collected and counted together."""

    def __init__(self) -> None:
        self._codes, self._counts = np.empty(0, np.int64), np.empty(0, np.int64)
        self._pending: list[NDArray[np.int64]] = []
        self._held = 0

    def add(self, codes: NDArray[np.int64]) -> None:
        self._pending.append(codes)
        self._held += len(codes)
        if self._held > _PENDING:
            self._count()

    def counts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        self._count()
        return self._codes, self._counts

    def _count(self) -> None:
        new, times = np.unique(np.concatenate([*self._pending, np.empty(0, np.int64)]), return_counts=True)
        codes, index = np.unique(np.concatenate([self._codes, new]), return_inverse=True)
        total = np.concatenate([self._counts, times])
        self._counts = np.bincount(index, weights=total, minlength=len(codes)).astype(np.int64)
        self._codes, self._pending, self._held = codes, [], 0
