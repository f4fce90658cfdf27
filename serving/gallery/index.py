"""A tenant's templates in memory, and the search for the people most like a face.

A number of an embedding takes two bytes. `coarse` holds a number in steps of 1/127 of the embedding's largest one, `fine`
what is left of it in steps 254 times smaller. The search compares all `coarse` values, bounds each similarity by the length of what
they leave out (Cauchy-Schwarz), and compares those people more closely who may be among the best. Nobody who may be among them is
left out, so that the caller, who has the embeddings as they were enrolled, finds the exact result among a few people.

Memory: 2 bytes per number and 24 per template, 1.05 GB for a million templates of 512 numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

MAX_TEMPLATES = 20  # of one person
_CHUNK = 4096  # rows allocated together, so that growing copies nothing
_BLOCK = 2048  # rows that are compared at once: their float32 values fit in the cache
_COARSE, _FINE = 127, 254
_ROUNDING = 1e-5  # of float32 sums
_MOST_MORE = 200  # people beside the k best who are returned, where that many differ by less than the steps


class Rows(NamedTuple):
    """Templates of one model, one per row.

    Attributes:
        owner: The person's pseudonym as two numbers, uint64 N x 2, big-endian halves of its 16 bytes.
        scale: The value of a step of `coarse`, float32 N.
        reach: The length of what `coarse` leaves out, float32 N.
        coarse, fine: int8 N x D.
    """

    owner: NDArray[np.uint64]
    scale: NDArray[np.float32]
    reach: NDArray[np.float32]
    coarse: NDArray[np.int8]
    fine: NDArray[np.int8]

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        """The five arrays, for what is done with each."""
        return cast(tuple[NDArray[Any], ...], self)

    @classmethod
    def of(cls, pseudonyms: Iterable[str], embeddings: NDArray[np.float32]) -> Self:
        """Round unit embeddings (float32 N x D) of the people named by `pseudonyms` (32 hex digits each)."""
        scale = np.maximum(np.abs(embeddings).max(axis=1), np.float32(1e-12)) / np.float32(_COARSE)
        coarse = np.rint(embeddings / scale[:, None]).astype(np.int8)
        rest = embeddings - coarse * scale[:, None]
        fine = np.rint(rest * (_FINE / scale)[:, None]).clip(-_COARSE, _COARSE).astype(np.int8)
        reach = np.linalg.norm(rest, axis=1).astype(np.float32)
        return cls(owners(pseudonyms), scale.astype(np.float32), reach, coarse, fine)


def owners(pseudonyms: Iterable[str]) -> NDArray[np.uint64]:
    """Pseudonyms (32 hex digits) as uint64 N x 2."""
    raw = b"".join(bytes.fromhex(pseudonym) for pseudonym in pseudonyms)
    return np.frombuffer(raw, ">u8").astype(np.uint64).reshape(-1, 2)


class ModelIndex:
    """Templates of one model. Adding and removing people copies no other rows but those that fill a gap."""

    def __init__(self, size: int) -> None:
        """`size`: the numbers of an embedding."""
        self.size = size
        self._chunks: list[Rows] = []
        self._count = 0
        self.people = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Memory of the rows in use, in bytes."""
        return self._count * (2 * self.size + 24)

    def add(self, rows: Rows) -> None:
        """Append rows of people who have none yet; ValueError if their embeddings have another length."""
        if rows.coarse.shape[1:] != (self.size,) or rows.fine.shape != rows.coarse.shape:
            raise ValueError(f"embeddings of {rows.coarse.shape[1]} numbers, expected {self.size}")
        begin = 0
        while begin < len(rows.scale):
            place = self._count % _CHUNK
            if place == 0:
                self._chunks.append(_empty(self.size))
            number = min(_CHUNK - place, len(rows.scale) - begin)
            for new, held in zip(rows.columns, self._chunks[-1].columns, strict=True):
                held[place : place + number] = new[begin : begin + number]
            begin, self._count = begin + number, self._count + number
        self.people += len(np.unique(rows.owner, axis=0))

    def remove(self, people: NDArray[np.uint64]) -> None:
        """Remove people (uint64 N x 2); the last rows move into the gaps, and their old places are overwritten."""
        wanted = {(int(high), int(low)) for high, low in people}
        gone: list[int] = []
        found = set()
        for start, chunk, used in self._used():
            for row in np.flatnonzero(np.isin(chunk.owner[:used, 0], people[:, 0])).tolist():
                owner = (int(chunk.owner[row, 0]), int(chunk.owner[row, 1]))
                if owner in wanted:
                    gone.append(start + row)
                    found.add(owner)
        self.people -= len(found)
        for row in reversed(gone):
            self._count -= 1
            last, here = divmod(self._count, _CHUNK), divmod(row, _CHUNK)
            for values in range(len(Rows._fields)):
                end = self._chunks[last[0]][values]
                self._chunks[here[0]][values][here[1]] = end[last[1]]
                end[last[1]] = 0  # an erased embedding must not stay in memory
            if last[1] == 0:
                self._chunks.pop()

    def likeliest(self, embedding: NDArray[np.float32], k: int) -> list[str]:
        """The pseudonyms of people of whom the k best by their best template are a part, in no stated order.

        They are few more than k. Where more than 200 people besides may be among the best, because their embeddings differ by
        less than the steps (less than 1e-4 in similarity), some of these are left out.

        Args:
            embedding: Unit embedding, float32 of the index's size.
            k: How many people are asked for.
        """
        if not self._count:
            return []
        query = embedding.astype(np.float32)
        similarity, reach = np.empty(self._count, np.float32), np.empty(self._count, np.float32)
        for start, chunk, used in self._used():
            part = similarity[start : start + used]
            _compare(chunk.coarse[:used], query, part)
            part *= chunk.scale[:used]
            reach[start : start + used] = chunk.reach[:used]
        reach += np.float32(_ROUNDING)
        rows = np.flatnonzero(similarity + reach >= self._least_of_best(similarity - reach, k))
        owner, close, error = self._closely(rows, query)
        order = np.argsort(-close, kind="stable")
        _, first = np.unique(owner[order], axis=0, return_index=True)
        best = order[np.sort(first)]  # each person's best row, best first
        if len(best) > k:
            best = best[close[best] + error[best] >= close[best[k - 1]] - error[best[:k]].max()]
        return [f"{int(high):016x}{int(low):016x}" for high, low in owner[best[: k + _MOST_MORE]]]

    def _least_of_best(self, lower: NDArray[np.float32], k: int) -> float:
        """The k-th largest of each person's largest `lower`; minus infinity with fewer people.

        It is among the k * 20 largest, since nobody has more than 20 templates.
        """
        wanted = min(self._count, k * MAX_TEMPLATES)
        rows = np.argpartition(-lower, wanted - 1)[:wanted]
        rows = rows[np.argsort(-lower[rows], kind="stable")]
        people = set()
        for row in rows.tolist():
            chunk, place = divmod(row, _CHUNK)
            people.add(self._chunks[chunk].owner[place].tobytes())
            if len(people) == k:
                return float(lower[row])
        return -np.inf

    def _closely(
        self, rows: NDArray[np.intp], query: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.float32]]:
        """Owner, similarity by both bytes, and a bound of its error, of some rows (ascending)."""
        owner = np.empty((len(rows), 2), np.uint64)
        close, scale = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
        for begin in range(0, len(rows), _BLOCK):
            some = rows[begin : begin + _BLOCK]
            part = slice(begin, begin + len(some))
            for number in np.unique(some // _CHUNK).tolist():
                own = np.flatnonzero(some // _CHUNK == number)
                chunk, places = self._chunks[number], some[own] % _CHUNK
                both = chunk.coarse[places].astype(np.float32)
                both += chunk.fine[places].astype(np.float32) / np.float32(_FINE)
                close[part][own] = (both @ query) * chunk.scale[places]
                scale[part][own], owner[part][own] = chunk.scale[places], chunk.owner[places]
        return owner, close, scale * np.float32(self.size**0.5 / (2 * _FINE)) + np.float32(_ROUNDING)

    def _used(self) -> Iterator[tuple[int, Rows, int]]:
        """Each chunk with the number of its first row and the number of rows in use."""
        for number, chunk in enumerate(self._chunks):
            yield number * _CHUNK, chunk, min(_CHUNK, self._count - number * _CHUNK)


@dataclass(slots=True)
class TenantIndex:
    """All templates of one tenant, up to the entry `position` of its change log.

    Attributes:
        position: The entry; None while the log is empty.
        models: The templates by the digest of the model that made them.
    """

    position: str | None
    models: dict[str, ModelIndex] = field(default_factory=dict)

    @property
    def templates(self) -> int:
        """Number of templates of all models."""
        return sum(len(index) for index in self.models.values())

    @property
    def nbytes(self) -> int:
        """Memory of all models, in bytes."""
        return sum(index.nbytes for index in self.models.values())

    def model_index(self, model: str) -> ModelIndex:
        """The templates of one model, by its digest."""
        return self.models.get(model) or ModelIndex(0)

    def forget(self, people: Collection[str]) -> None:
        """Remove people, by their pseudonyms."""
        if people:
            gone = owners(people)
            for index in self.models.values():
                index.remove(gone)

    def add(self, model: str, rows: Rows) -> None:
        """Add templates of people who have none of this model yet."""
        if len(rows.scale):
            self.models.setdefault(model, ModelIndex(rows.coarse.shape[1])).add(rows)


def _compare(coarse: NDArray[np.int8], query: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    buffer = np.empty((min(_BLOCK, len(coarse)), coarse.shape[1]), np.float32)
    for begin in range(0, len(coarse), _BLOCK):
        end = min(begin + _BLOCK, len(coarse))
        np.copyto(buffer[: end - begin], coarse[begin:end])
        np.dot(buffer[: end - begin], query, out=out[begin:end])


def _empty(size: int) -> Rows:
    """A chunk: memory that is not touched takes no place."""
    return Rows(
        np.empty((_CHUNK, 2), np.uint64),
        np.empty(_CHUNK, np.float32),
        np.empty(_CHUNK, np.float32),
        np.empty((_CHUNK, size), np.int8),
        np.empty((_CHUNK, size), np.int8),
    )
