"""The similarity from which two faces count as one person, from people of the benchmark that are known to differ."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
from numpy.typing import NDArray

from eolgul.audit.faces import Faces
from eolgul.audit.labels import centres_of, unit
from eolgul.audit.schema import Threshold
from eolgul.errors import InputError

_MOST = 20_000  # images whose comparisons are all made: 200 million
_BLOCK = 1024
_KEPT = 2_000_000  # similarities that are kept: the greatest, which decide


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
    if similarity is not None:
        rate = float(np.count_nonzero(scores >= similarity) / count) if count else None
        return Threshold(similarity=similarity, fmr_requested=None, fmr=rate, comparisons=count, person_pairs=pairs,
                         false_findings=None if rate is None else rate * comparisons, means=similarity,
                         copies=len(copies))  # fmt: skip
    if not count:
        raise InputError(
            f"{', '.join(part.name for part in faces.parts)}: no two people are known to differ, so that no threshold can be "
            "chosen; give one with --similarity"
        )
    rate = max(fmr, 1 / pairs)
    return Threshold(similarity=_at(scores, count, pairs, fmr), fmr_requested=fmr, fmr=rate, comparisons=count,
                     person_pairs=pairs, false_findings=rate * comparisons,
                     means=_of_means(faces, embeddings, fmr, copies), copies=len(copies))  # fmt: skip


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
    known = np.asarray([name is not None for name in faces.names], dtype=bool)
    chosen = np.flatnonzero(known)
    if len(chosen) > _MOST:
        chosen = chosen[np.linspace(0, len(chosen) - 1, _MOST).round().astype(np.int64)]
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
