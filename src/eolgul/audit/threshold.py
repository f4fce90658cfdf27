"""The similarity from which two faces count as one person, from people of the benchmark that are known to differ."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
from numpy.typing import NDArray

from eolgul.audit.faces import Faces
from eolgul.audit.labels import centres_of, unit
from eolgul.audit.schema import Coinciding, Threshold
from eolgul.errors import InputError

_MOST = 20_000  # images whose comparisons are all made: 200 million
_BLOCK = 1024
_KEPT = 2_000_000  # similarities that are kept: the greatest, which decide
_TAIL = 1e-4  # share of the comparisons that the tail of strangers is read from
_LEAST_TAIL = 200  # comparisons
_LEAST_PAIRS = 2_000  # pairs of people, below which no tail is read: few people give many comparisons that are alike
_CHANCE = 0.01  # that the most similar strangers of the whole benchmark reach the limit of strangers


def choose_threshold(
    faces: Faces,
    embeddings: NDArray[np.float32],
    *,
    fmr: float,
    similarity: float | None,
    comparisons: int,
    copies: Set[tuple[int, int]] = frozenset(),
) -> Threshold:
    """Find the least similarity that at most a share `fmr` of comparisons of different people reaches.

    Where the people are too few to show that rate, the finest that they can show is taken: one in the number of pairs of
    different people. The impostor pairs of a benchmark that does not name its people are used as they are.

    Two names are not always two people: LFW has several people twice, and at 1e-6 a single such pair decides. People who are
    more alike than the limit of strangers are therefore not taken as different, and are named (see `limit_of_strangers`).

    Args:
        faces: The faces of the benchmark.
        embeddings: Their embeddings, N x D, rows of length 1.
        fmr: The wanted false match rate.
        similarity: A threshold that is given; then only its place among the comparisons is told.
        comparisons: How many comparisons with training faces the audit makes, for the number of false findings.
        copies: Pairs of people (numbers, the smaller first) who are not known to differ: they have copies of one image.

    Raises:
        InputError: Nobody is known to differ, and no threshold is given.
    """
    scores, count, pairs = _impostors(faces, embeddings, copies)
    limit = limit_of_strangers(scores, count) if pairs >= _LEAST_PAIRS else None
    alike = [] if limit is None else _people_above(faces, embeddings, limit, copies)
    if alike:
        copies = {*copies, *(pair for pair, _ in alike)}
        scores, count, pairs = _impostors(faces, embeddings, copies)
    names = dict(zip(faces.person.tolist(), faces.names, strict=True))
    listed = [Coinciding(first=names[one] or "", second=names[other] or "", similarity=value)
              for (one, other), value in alike]  # fmt: skip
    copied = len(copies) - len(alike)
    if similarity is not None:
        rate = float(np.count_nonzero(scores >= similarity) / count) if count else None
        return Threshold(similarity=similarity, fmr_requested=None, fmr=rate, comparisons=count, person_pairs=pairs,
                         false_findings=None if rate is None else rate * comparisons, means=similarity,
                         copies=copied, alike=listed)  # fmt: skip
    if not count:
        raise InputError(
            f"{', '.join(part.name for part in faces.parts)}: no two people are known to differ, so that no threshold can be "
            "chosen; give one with --similarity"
        )
    rate = max(fmr, 1 / pairs)
    return Threshold(similarity=_at(scores, count, pairs, fmr), fmr_requested=fmr, fmr=rate, comparisons=count,
                     person_pairs=pairs, false_findings=rate * comparisons,
                     means=_of_means(faces, embeddings, fmr, copies), copies=copied, alike=listed)  # fmt: skip


def limit_of_strangers(scores: NDArray[np.float32], count: int) -> float | None:
    """The similarity that the most similar of `count` comparisons of strangers reaches with a chance of 1 %.

    What exceeds a high quantile is taken as exponential (peaks over a threshold; Coles, An Introduction to Statistical
    Modeling of Extreme Values, chapter 4, with shape 0: cosines are bounded, so that the true tail is rather shorter). Its
    scale comes from the median of what exceeds it, which a few people with two names do not move.

    Args:
        scores: The greatest similarities, descending.
        count: Of how many comparisons.

    Returns:
        None where the comparisons are too few to read a tail from.
    """
    tail = max(_LEAST_TAIL, int(count * _TAIL))
    if tail * 10 > count or tail >= len(scores):
        return None
    start = float(scores[tail])
    scale = (float(np.median(scores[:tail])) - start) / np.log(2)
    return start + scale * float(np.log(tail / _CHANCE)) if scale > 0 else None


def _people_above(
    faces: Faces, embeddings: NDArray[np.float32], limit: float, copies: Set[tuple[int, int]]
) -> list[tuple[tuple[int, int], float]]:
    """Pairs of named people (numbers, the smaller first) with images that reach `limit`; the most similar first."""
    chosen = _named(faces)
    vectors, person = embeddings[chosen], faces.person[chosen]
    found: dict[tuple[int, int], float] = {}
    for begin in range(0, len(vectors), _BLOCK):
        similarity = vectors[begin : begin + _BLOCK] @ vectors[begin:].T
        for row, column in zip(*np.nonzero(similarity >= limit), strict=True):
            one, other = sorted((int(person[begin + row]), int(person[begin + column])))
            if one != other and (one, other) not in copies:
                found[one, other] = max(float(similarity[row, column]), found.get((one, other), -1.0))
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))


def _at(scores: NDArray[np.float32], count: int, pairs: int, fmr: float) -> float:
    """The similarity just above the greatest that may not reach it; `scores` are the greatest of `count`, descending."""
    allowed = 0 if fmr * pairs < 1 else int(fmr * count)
    return float(np.nextafter(np.float32(scores[min(allowed, len(scores) - 1)]), np.float32(2)))


def _of_means(faces: Faces, embeddings: NDArray[np.float32], fmr: float, copies: Set[tuple[int, int]]) -> float | None:
    """The threshold for the mean embeddings of two people."""
    people = faces.people()
    if len(people) < 2:
        return None
    means = unit(centres_of(faces.person, embeddings)[0])[people]
    scores, count = _greatest(means, people, copies)
    return _at(scores, count, count, fmr) if count else None


def _impostors(
    faces: Faces, embeddings: NDArray[np.float32], copies: Set[tuple[int, int]]
) -> tuple[NDArray[np.float32], int, int]:
    """The greatest similarities of different people (descending), how many comparisons, and of how many pairs of people."""
    chosen = _named(faces)
    greatest, count = _greatest(embeddings[chosen], faces.person[chosen], copies)
    people = len(np.unique(faces.person[chosen]))
    pairs = people * (people - 1) // 2 - len(copies)
    for part, begin in zip(faces.parts, faces.offsets, strict=False):
        if part.identified or not (part.dataset.path / "pairs.parquet").is_file():
            continue
        listed = part.dataset.pairs()
        places = np.searchsorted(part.rows, np.stack([listed.left, listed.right])[:, ~listed.same]) + begin
        greatest = _keep(greatest, np.einsum("nd,nd->n", embeddings[places[0]], embeddings[places[1]]))
        count, pairs = count + places.shape[1], pairs + places.shape[1]
    return np.sort(greatest)[::-1], count, pairs


def _named(faces: Faces) -> NDArray[np.int64]:
    """The faces whose people are named, at most `_MOST` of them."""
    chosen = np.flatnonzero(np.asarray([name is not None for name in faces.names], dtype=bool))
    if len(chosen) > _MOST:
        chosen = chosen[np.linspace(0, len(chosen) - 1, _MOST).round().astype(np.int64)]
    return chosen


def _greatest(
    vectors: NDArray[np.float32], person: NDArray[np.int64], copies: Set[tuple[int, int]]
) -> tuple[NDArray[np.float32], int]:
    """The greatest similarities between rows (N x D) of different people (N), descending, and of how many."""
    greatest: NDArray[np.float32] = np.empty(0, dtype=np.float32)
    count = 0
    for begin in range(0, len(vectors), _BLOCK):
        similarity = vectors[begin : begin + _BLOCK] @ vectors[begin:].T
        own, others = person[begin : begin + _BLOCK], person[begin:]
        differ = np.triu(np.ones(similarity.shape, dtype=bool), 1) & (own[:, None] != others[None])
        for one, other in copies:
            for first, second in ((one, other), (other, one)):
                differ[np.ix_(own == first, others == second)] = False
        count += int(differ.sum())
        greatest = _keep(greatest, similarity[differ])
    return np.sort(greatest)[::-1], count


def _keep(kept: NDArray[np.float32], more: NDArray[np.float32]) -> NDArray[np.float32]:
    both = np.concatenate([kept, more])
    return both if len(both) <= _KEPT else np.partition(both, len(both) - _KEPT)[-_KEPT:]
