"""Find the image records of a `.rec`, in InsightFace's layout or im2rec's, and what is missing among them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError
from eolgul.formats.recordio import Heads, Index, RecordReader, read_index
from eolgul.storage.ranges import Ranges

EXACT = 1 << 24  # whole numbers up to here are exact in float32, the type of the counts in record 0
_HEAD = 8  # bytes before the content of a record
_IDENTITY_RECORD = 24 + 2 * 4  # bytes: the image header and two labels


@dataclass(frozen=True, slots=True)
class ImageIndex:
    """Where the image records of a `.rec` are: keys (ascending), byte offsets and sizes in bytes, all int64.

    A size is the distance to the next record without the record's head, so that it takes no look at the record.

    `labels` (float32) are the first labels as written, NaN where the header is damaged. `repeated` is true where the
    `.idx` names a key again, for another record. `missing` (int64, ascending) are the keys of images that record 0
    announces and the file does not hold; -1 for each one whose key nothing tells. `notes` are sentences about what the
    file itself gets wrong.
    """

    keys: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: NDArray[np.float32]
    repeated: NDArray[np.bool_]
    missing: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def labels_from_one(self, identities: int) -> bool:
        """Whether the labels count from 1 to `identities`, so that none is 0 and the largest is not one too many."""
        numbers = self.labels[(self.labels >= 0) & (self.labels == np.rint(self.labels)) & ~self.repeated]
        return len(numbers) > 0 and bool(numbers.min() == 1) and bool(numbers.max() == np.float32(identities))


class PartialError(Exception):
    """The index of a file that is here in part does not fit what is here of it: only the whole file can tell more."""


def index_rec(rec: Path, known: Ranges | None = None) -> ImageIndex:
    """Find a `.rec` file's image records, in either layout, by its `.idx` or, where that does not fit, by scanning.

    Memory: a few numbers per record.

    Args:
        rec: The file.
        known: Which bytes of it are here, where that is not all: the first records, from the last image to the end, and
            some between. Of the other records the index is believed; their labels are NaN.

    Raises:
        InputError: The file is not RecordIO, or its last images are missing and no record follows them: it is cut off.
        PartialError: With `known`, the index does not fit.
    """
    try:
        return _index_images(rec, known)
    except InputError as error:
        if known is None:
            raise
        raise PartialError from error


def _index_images(rec: Path, known: Ranges | None) -> ImageIndex:
    with RecordReader(rec) as reader:
        index, heads, scanned = _index(rec, reader, known)
        keys, offsets, labels = index.keys, index.offsets, heads.label
        sizes = np.append(offsets[1:], reader.size) - offsets - _HEAD
        small = (heads.flag == 0) & (heads.length == _IDENTITY_RECORD)
        if (keys[1:] < keys[:-1]).any():
            order = np.argsort(keys, kind="stable")
            keys, offsets, sizes, small, labels = keys[order], offsets[order], sizes[order], small[order], labels[order]
        without = _without_image(reader, offsets, small)
        end, notes = _images_end(reader, keys, offsets, without)
        missing = np.empty(0, np.int64)
        if end is not None:
            images = (keys > 0) & (~without if scanned or end > EXACT else (keys < end) | ~without)
            follows = (len(keys) > 1 and bool(without[-1])) or (int(keys[-1]) >= end and not scanned)
            keys, offsets, sizes, labels = keys[images], offsets[images], sizes[images], labels[images]
            if scanned:
                keys = _keys_by_id(reader, offsets, end) if len(keys) < end - 1 else np.arange(1, len(keys) + 1)
            missing = _missing(rec, keys, end, follows=follows)
            if (beyond := int((keys >= end).sum())) and end <= EXACT:
                notes += (f"record 0 announces {end - 1} images, and {beyond} more are behind them",)
    repeated = np.zeros(len(keys), np.bool_)
    repeated[1:] = keys[1:] == keys[:-1]
    return ImageIndex(np.abs(keys), offsets, sizes, labels, repeated, missing, notes)


def _without_image(reader: RecordReader, offsets: NDArray[np.int64], small: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the records that are as small as one without an image (bool) are such: with two labels and nothing else.

    What is damaged beside them is taken by its size. Those at the end of the file stand together, as InsightFace writes
    them: none is read behind the first.
    """
    found = small.copy()
    together = len(small) - int(np.argmin(small[::-1])) if not small.all() else 0
    for row in np.flatnonzero(small).tolist():
        try:
            found[row] = reader.image(int(offsets[row])).flag == 2
        except InputError:
            continue
        if found[row] and row >= together:
            break
    return found


def _images_end(
    reader: RecordReader, keys: NDArray[np.int64], offsets: NDArray[np.int64], without: NDArray[np.bool_]
) -> tuple[int | None, tuple[str, ...]]:
    """The key after the last image in InsightFace's layout, None in im2rec's; and what is wrong with record 0.

    Where record 0 is damaged or missing, the records of identities at the end of the file still tell the layout.
    """
    row = int(np.searchsorted(keys, 0))
    fault = "is missing"
    if row < len(keys) and keys[row] == 0:
        try:
            first = reader.image(int(offsets[row]))
        except InputError:
            fault = "is damaged"
        else:
            label = first.labels[0]
            if first.flag == 2 and len(first.image) == 0 and label > 0 and label.is_integer():
                return int(label), ()
            return None, ()
    tail = len(keys) - int(np.argmin(without[::-1])) if len(keys) and not without.all() else len(keys)
    try:
        identity = reader.image(int(offsets[tail])) if tail < len(keys) else None
    except InputError:
        identity = None
    if identity is None or identity.flag != 2 or len(identity.image):
        return None, ()
    note = (
        f"record 0, which announces how many images there are, {fault}; images behind the last one would not be missed"
    )
    return int(keys[tail]), (note,)


def _keys_by_id(reader: RecordReader, offsets: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    """Keys of records that were found without an index: the ids in their headers where these can be keys.

    Otherwise their places, negative, since a place is not a key when records are missing.
    """
    ids = reader.ids(offsets)
    if len(ids) and ids[0] > 0 and ids[-1] < end and bool((ids[1:] > ids[:-1]).all()):
        return ids
    return -np.arange(1, len(offsets) + 1, dtype=np.int64)


def _missing(rec: Path, keys: NDArray[np.int64], end: int, *, follows: bool) -> NDArray[np.int64]:
    """The keys that record 0 announces, up to `end`, and no record has; `follows`: records follow the last image.

    A record whose key was given to another one stands for a key that is missing: each is counted once.

    Raises:
        InputError: The last images are missing, and nothing follows them.
    """
    unique = np.unique(np.abs(keys[keys < end] if end <= EXACT else keys))
    present, repeated = len(unique), len(keys) - len(np.unique(keys))
    last = int(unique[-1]) if present else 0
    total = end - 1
    if end > EXACT:  # record 0 cannot state it exactly: the number of images that fits it, or none
        gaps = last - present
        total = last if np.float32(present + gaps + 1) == np.float32(end) else end - 1
    if last < total and not follows:
        lack = f"{present + 1} to {total}" if last == present else f"{last + 1} to {total}, and {last - present} before"
        raise InputError(
            f"{rec}: record 0 announces {total} images, {present} are there; keys {lack} are missing at the end of the "
            "file and no record follows, so it looks cut off"
        )
    count = max(total - present - repeated, 0)
    if count == 0:
        return np.empty(0, np.int64)
    if len(keys) == 0 or keys[0] < 0:
        return np.full(count, -1, np.int64)
    absent = np.setdiff1d(np.arange(1, total + 1, dtype=np.int64), unique, assume_unique=True)
    taken = np.isin(absent - 1, keys[1:][keys[1:] == keys[:-1]])  # whose record probably has the key before
    return np.sort(absent[np.argsort(taken, kind="stable")][:count])


def _index(rec: Path, reader: RecordReader, known: Ranges | None) -> tuple[Index, Heads, bool]:
    """Every record's key and offset, in file order, the headers there, and whether the keys are only places in the file."""
    path = rec.with_suffix(".idx")
    if path.is_file():
        listed = read_index(path)
        if (listed.offsets[1:] < listed.offsets[:-1]).any():
            order = np.argsort(listed.offsets, kind="stable")
            listed = Index(listed.keys[order], listed.offsets[order])
        heads = _heads_that_fit(reader, listed, known)
        if heads is not None:
            return listed, heads, False
    if known is not None:
        raise PartialError
    offsets = reader.offsets()
    if len(offsets) == 0:
        raise InputError(f"{rec}: no record found, expected RecordIO")
    return Index(np.arange(len(offsets), dtype=np.int64), offsets), reader.heads(offsets), True


def _heads_that_fit(reader: RecordReader, index: Index, known: Ranges | None) -> Heads | None:
    """The headers where the index (by offset) points; None if it is stale: it omits records or points elsewhere.

    If the index is right and the record there is broken, the record is reported when it is read.
    """
    offsets = index.offsets
    if len(index) == 0 or offsets[0] != 0 or offsets[-1] > reader.size - 8 or (offsets % 4).any():
        return None
    listed = np.append(offsets[1:], reader.size)
    if (offsets == listed).any():
        return None
    here = np.ones(len(offsets), np.bool_) if known is None else known.hold(offsets, listed)
    heads = reader.heads(offsets) if known is None else _heads_of_some(reader, offsets, listed, here)
    short = here & heads.magic & (heads.flag == 0) & (heads.following(offsets) < listed)
    if any(reader.begins_at(int(after)) for after in heads.following(offsets)[short]):
        return None
    for offset, next_listed in zip(offsets[heads.flag != 0].tolist(), listed[heads.flag != 0].tolist(), strict=True):
        try:
            following = reader.read(offset)[1]
        except InputError:
            continue
        if following < next_listed and reader.begins_at(following):
            return None
    return heads


def _heads_of_some(
    reader: RecordReader, offsets: NDArray[np.int64], listed: NDArray[np.int64], here: NDArray[np.bool_]
) -> Heads:
    """The headers at `offsets`, as they are where the record is `here`, else as the index says that they should be."""
    heads = Heads(
        np.ones(len(offsets), np.bool_),
        np.zeros(len(offsets), np.uint8),
        listed - offsets - 8,
        np.full(len(offsets), np.nan, np.float32),
    )
    own = reader.heads(offsets[here])
    for name in Heads.__slots__:
        getattr(heads, name)[here] = getattr(own, name)
    return heads
