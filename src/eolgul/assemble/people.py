"""Who is on the images of several datasets: one number per identity, and the identities that share an image.

Memory: 4 bytes per row for the identity, and 16 more while identical images are looked for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eolgul.assemble.splits import audit_splits
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError

_DIGITS = 64  # of a SHA-256
_WORDS = 4  # of 64 bits


class People:
    """The identities of several datasets, numbered in the order in which they first appear.

    Attributes:
        names: The name of each identity, `<source>.<identity>`.
        kept: Whether each identity is assembled, and not left out because of an audit (bool, one per identity).
        of_rows: Per dataset, the identity of each row (int32).
        images: Per identity, its number of images (int64).
    """

    def __init__(self, sources: Sequence[FaceDataset], excluded: Collection[str] = ()) -> None:
        numbers: dict[str, int] = {}
        self.of_rows: list[NDArray[np.int32]] = []
        for source in sources:
            own, codes = source.codes("identity")
            prefix = source.artifact.contents["name"]
            known = np.array([numbers.setdefault(f"{prefix}.{name}", len(numbers)) for name in own], np.int32)
            self.of_rows.append(known[codes] if len(own) else codes)
        self.names = list(numbers)
        self.kept: NDArray[np.bool_] = np.array([name not in excluded for name in self.names], bool)
        counts = [np.bincount(rows, minlength=len(self.names)) for rows in self.of_rows]
        self.images: NDArray[np.int64] = np.sum(counts, axis=0, dtype=np.int64)

    def rows_kept(self, number: int) -> NDArray[np.bool_]:
        """Which rows of a dataset are assembled (bool)."""
        return self.kept[self.of_rows[number]]

    def labels(self) -> NDArray[np.int32]:
        """The label of each identity, dense over those that are assembled."""
        return (np.cumsum(self.kept) - 1).astype(np.int32)

    def groups(self, sources: Sequence[FaceDataset]) -> tuple[dict[str, dict[str, int]], int]:
        """Identities joined by identical images, as {group: {identity: images}}, and how many were joined that way."""
        parent: dict[int, int] = {}

        def root(person: int) -> int:
            while (above := parent.get(person, person)) != person:
                parent[person] = parent.get(above, above)
                person = parent[person]
            return person

        for owner, other in self._shared(sources).tolist():
            parent[root(other)] = root(owner)
        groups: dict[str, dict[str, int]] = defaultdict(dict)
        for person in np.flatnonzero(self.kept).tolist():
            groups[self.names[root(person)]][self.names[person]] = int(self.images[person])
        return dict(groups), sum(len(members) for members in groups.values() if len(members) > 1)

    def _shared(self, sources: Sequence[FaceDataset]) -> NDArray[np.int64]:
        """Pairs of identities with an identical image (N x 2), the one that had it first before the other.

        In the order of the images; a pair that repeats is there once.
        """
        person = np.concatenate(self.of_rows) if self.of_rows else np.empty(0, np.int32)
        kept = self.kept[person]
        first_word = np.empty(len(person), np.uint64)
        place = 0
        for source in sources:
            for batch in source.batches(["sha256"]):
                first_word[place : place + len(batch)] = _words(batch.column(0), source)[:, 0]
                place += len(batch)
        # The beginnings of different digests are equal by chance once in 10^6 datasets of this size; all of the digest decides.
        rows = np.flatnonzero(kept)[_repeated(first_word[kept])]
        del first_word
        image = _number(self._digests(sources, rows))
        order = np.argsort(image, kind="stable")  # and by row within an image
        begins = np.flatnonzero(np.diff(image[order], prepend=-1))
        owner = np.empty(len(rows), np.int64)
        owner[order] = np.repeat(person[rows][order[begins]], np.diff(begins, append=len(rows)))
        pairs = np.column_stack([owner, person[rows].astype(np.int64)])
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        _, first = np.unique(pairs[:, 0] * max(len(self.names), 1) + pairs[:, 1], return_index=True)
        found: NDArray[np.int64] = pairs[np.sort(first)]
        return found

    def _digests(self, sources: Sequence[FaceDataset], rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The SHA-256 of some rows of all the datasets, counted through (uint64, N x 4)."""
        found = [np.empty((0, _WORDS), np.uint64)]
        begin = 0
        for source in sources:
            for batch in source.batches(["sha256"]):
                own = rows[np.searchsorted(rows, begin) : np.searchsorted(rows, begin + len(batch))] - begin
                if len(own):
                    found.append(_words(batch.column(0).take(pa.array(own)), source))
                begin += len(batch)
        return np.concatenate(found)


def split_table(people: People, splits: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """How many identities and images each split has, by its name."""
    members: dict[str, set[str]] = defaultdict(set)
    images: Counter[str] = Counter()
    for person in np.flatnonzero(people.kept).tolist():
        name = people.names[person]
        members[splits[name]].add(name)
        images[splits[name]] += int(people.images[person])
    audit_splits(members)
    return {split: {"identities": len(members[split]), "images": images[split]} for split in sorted(members)}


def _words(column: pa.StringArray, source: FaceDataset) -> NDArray[np.uint64]:
    """SHA-256s in hexadecimal digits as four numbers each (uint64, N x 4)."""
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    try:
        if (np.diff(ends) != _DIGITS).any():
            raise ValueError("another length")
        raw = bytes.fromhex(memoryview(data)[ends[0] : ends[-1]].tobytes().decode("ascii")) if len(column) else b""
        if len(raw) != len(column) * _DIGITS // 2:  # `fromhex` passes over spaces
            raise ValueError("spaces")
    except ValueError as error:
        raise InputError(
            f"{source.path / 'manifest.parquet'}: column sha256: expected {_DIGITS} hexadecimal digits in every row"
        ) from error
    return np.frombuffer(raw, ">u8").astype(np.uint64).reshape(-1, _WORDS)


def _repeated(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The places of the values that occur more than once, ascending."""
    order = np.argsort(values, kind="stable")
    equal = values[order][1:] == values[order][:-1]
    return np.sort(order[np.append(equal, False) | np.insert(equal, 0, False)]) if len(values) else order


def _number(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """A number per row of `keys` (N x 4), equal for equal rows."""
    order = np.lexsort(keys.T)
    new = np.any(keys[order][1:] != keys[order][:-1], axis=1)
    numbers = np.empty(len(keys), np.int64)
    numbers[order] = np.cumsum(np.insert(new, 0, False)) if len(keys) else 0
    return numbers
