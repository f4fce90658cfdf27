"""The similarity from which two faces count as one person, from people of the benchmark that are known to differ."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class _Comparisons:
    """The greatest similarities of people who are known to differ, descending, of `count`, by `pairs` pairs of people."""

    greatest: NDArray[np.float32]
    count: int
    pairs: int

    def tail(self) -> tuple[int, float, float] | None:
        """What the tail of strangers begins with: number of comparisons, similarity, scale; None where they are too few.

        What exceeds a high quantile is taken as exponential (peaks over a threshold; Coles, An Introduction to Statistical
        Modeling of Extreme Values, chapter 4, with shape 0: cosines are bounded, so that the true tail is rather shorter).
        The scale comes from the median of what exceeds it, which a few people with two names do not move.
        """
        beyond = max(_LEAST_TAIL, int(self.count * _TAIL))
        if self.pairs < _LEAST_PAIRS or beyond * 10 > self.count or beyond >= len(self.greatest):
            return None
        start = float(self.greatest[beyond])
        scale = (float(np.median(self.greatest[:beyond])) - start) / float(np.log(2))
        return (beyond, start, scale) if scale > 0 else None

    def reached_by(self, expected: float) -> float | None:
        """The similarity that `expected` of the comparisons reach by the tail of strangers; None without a tail."""
        tail = self.tail()
        return None if tail is None else tail[1] + tail[2] * float(np.log(tail[0] / expected))

    def at(self, rate: float) -> tuple[float, float, bool]:
        """The least similarity that a share `rate` reaches, the rate that it stands for, and whether the tail gave it.

        A rate that the pairs of people can show is counted; a finer one is read from the tail; without a tail the finest
        that they can show stands for it.
        """
        if rate * self.pairs >= 1:
            return self._counted(int(rate * self.count)), rate, False
        counted, beyond = self._counted(0), self.reached_by(rate * self.count)
        if beyond is None:
            return counted, max(rate, 1 / self.pairs), False
        return max(min(beyond, 1.0), self._counted(int(self.count / self.pairs))), rate, True

    def _counted(self, allowed: int) -> float:
        """Just above the greatest similarity that may not be reached."""
        last = self.greatest[min(allowed, len(self.greatest) - 1)]
        return float(np.nextafter(np.float32(last), np.float32(2)))


def choose_threshold(
    faces: Faces,
    embeddings: NDArray[np.float32],
    *,
    fmr: float,
    false_findings: float,
    similarity: float | None,
    comparisons: int,
    identities: int = 0,
    copies: Set[tuple[int, int]] = frozenset(),
) -> Threshold:
    """Find the least similarity that at most a share `fmr` of comparisons of different people reaches.

    Where the audit makes so many comparisons that more than `false_findings` of strangers would be found at that rate, a
    finer one is taken. A rate finer than one in the number of pairs of different people cannot be counted: it is read from
    the tail of the comparisons, or, where the people are too few for that, the finest that they can show is taken. The
    impostor pairs of a benchmark that does not name its people are used as they are.

    Two names are not always two people: LFW has several people twice, and at 1e-6 a single such pair decides. People with
    images that the most similar strangers of the benchmark would reach with a chance of 1 % are therefore not taken as
    different, and are named.

    Args:
        faces: The faces of the benchmark.
        embeddings: Their embeddings, N x D, rows of length 1.
        fmr: The wanted false match rate.
        false_findings: Most comparisons of strangers that are expected to be found, of `comparisons`.
        similarity: A threshold that is given; then only its place among the comparisons is told.
        comparisons: How many comparisons with training faces the audit makes.
        identities: How many training identities there are, for the threshold on means.
        copies: Pairs of people (numbers, the smaller first) who are not known to differ: they have copies of one image.

    Raises:
        InputError: Nobody is known to differ, and no threshold is given.
    """
    found = _impostors(faces, embeddings, copies)
    limit = found.reached_by(_CHANCE)
    alike = [] if limit is None else _people_above(faces, embeddings, limit, copies)
    apart = copies
    if alike:
        apart = {*copies, *(pair for pair, _ in alike)}
        found = _impostors(faces, embeddings, apart)
    names = dict(zip(faces.person.tolist(), faces.names, strict=True))
    listed = [Coinciding(first=names[one] or "", second=names[other] or "", similarity=value)
              for (one, other), value in alike]  # fmt: skip
    if similarity is not None:
        reaching = float(np.count_nonzero(found.greatest >= similarity) / found.count) if found.count else None
        return Threshold(similarity=similarity, fmr_requested=None, fmr=reaching, comparisons=found.count,
                         person_pairs=found.pairs, false_findings=None if reaching is None else reaching * comparisons,
                         means=similarity, copies=len(copies), alike=listed, extrapolated=False)  # fmt: skip
    if not found.count:
        raise InputError(
            f"{', '.join(part.name for part in faces.parts)}: no two people are known to differ, so that no threshold can be "
            "chosen; give one with --similarity"
        )
    wanted = min(fmr, false_findings / max(1, comparisons))
    value, rate, extrapolated = found.at(wanted)
    people = len(faces.people())
    of_means = min(fmr, false_findings / max(1, people * identities))
    return Threshold(similarity=value, fmr_requested=wanted, fmr=rate, comparisons=found.count, person_pairs=found.pairs,
                     false_findings=rate * comparisons, means=_of_means(faces, embeddings, of_means, apart),
                     copies=len(copies), alike=listed, extrapolated=extrapolated)  # fmt: skip


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


def _of_means(faces: Faces, embeddings: NDArray[np.float32], fmr: float, copies: Set[tuple[int, int]]) -> float | None:
    """The threshold for the mean embeddings of two people."""
    people = faces.people()
    if len(people) < 2:
        return None
    means = unit(centres_of(faces.person, embeddings)[0])[people]
    scores, count = _greatest(means, people, copies)
    return _Comparisons(scores, count, count).at(fmr)[0] if count else None


def _impostors(faces: Faces, embeddings: NDArray[np.float32], copies: Set[tuple[int, int]]) -> _Comparisons:
    """The comparisons of people of the benchmark who are known to differ."""
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
    return _Comparisons(np.sort(greatest)[::-1], count, pairs)


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
