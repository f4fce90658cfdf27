"""MXNet RecordIO: records of bytes in one file, split at embedded magics, found through an `.idx` or by scanning.

Source: `recordio.h` of dmlc-core. A record is a little-endian uint32 magic,
a uint32 `cflag << 29 | length`, the payload, and zero padding to four bytes. A payload that contains the magic at a
four-byte-aligned place is stored as several parts (cflag 1, 2…, 3) with those four bytes left out between them.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
from numpy.typing import NDArray

from eolgul.content import LOOKED_AT, describe_content, describe_file
from eolgul.errors import InputError

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
MAX_LENGTH = (1 << 29) - 1
_HEAD = struct.Struct("<II")
_IMAGE_HEAD = struct.Struct("<IfQQ")
_BOTH = struct.Struct("<IIIfQQ")  # a record's header and its image header
_WHOLE, _FIRST, _MIDDLE, _LAST = 0, 1, 2, 3
_GATHER = 1 << 11  # headers read before their pages are released
_FORGET = 16 << 20


class ImageRecord(NamedTuple):
    """A record's image header (`IRHeader`), its labels and its image.

    `labels` holds the header's scalar label if `flag` is 0, else the `flag` float32 labels behind the header.
    """

    flag: int
    labels: tuple[float, ...]
    id: int
    id2: int
    image: memoryview


def pack_image(labels: float | list[float], image: bytes, *, id: int = 0, id2: int = 0) -> bytes:
    """The payload of an image record: a scalar label gives flag 0, a list gives flag = its length."""
    if isinstance(labels, list):
        return _IMAGE_HEAD.pack(len(labels), 0.0, id, id2) + struct.pack(f"<{len(labels)}f", *labels) + image
    return _IMAGE_HEAD.pack(0, labels, id, id2) + image


def unpack_image(payload: bytes | memoryview, where: str) -> ImageRecord:
    """Split a payload into header, labels and image bytes; InputError (naming `where`) if it is too short."""
    view = memoryview(payload)
    try:
        flag, label, id_, id2 = _IMAGE_HEAD.unpack_from(view)
    except struct.error as error:
        raise InputError(f"{where}: {len(view)} bytes, too short for an image header of {_IMAGE_HEAD.size}") from error
    if flag == 0:
        return ImageRecord(0, (label,), id_, id2, view[24:])
    end = _IMAGE_HEAD.size + 4 * flag
    if end > len(view):
        raise InputError(f"{where}: {flag} labels announced, but only {len(view) - _IMAGE_HEAD.size} bytes follow")
    return ImageRecord(flag, struct.unpack_from(f"<{flag}f", view, _IMAGE_HEAD.size), id_, id2, view[end:])


@dataclass(frozen=True, slots=True)
class Heads:
    """The headers at many offsets: whether the magic stands there, the part flag, the part's length in bytes.

    `label` (float32) is the first label of the image header behind it; NaN where there is none.
    """

    magic: NDArray[np.bool_]
    flag: NDArray[np.uint8]
    length: NDArray[np.int64]
    label: NDArray[np.float32]

    def following(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the next part begins."""
        after: NDArray[np.int64] = offsets + _HEAD.size + (self.length + 3) // 4 * 4
        return after


class RecordReader:
    """Reads records by byte offset from a memory map. Records of one part are views on the map, not copies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise InputError(f"{path}: empty, expected RecordIO") from error
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        self._view = memoryview(self._map)
        self.size = len(self._map)
        head = self._map[:LOOKED_AT]
        # A first record that is damaged, or only zeros, does not cost the others, which the .idx finds.
        if not head.startswith(MAGIC_BYTES) and head.strip(b"\0") and (what := describe_content(head)):
            self.close()
            raise InputError(f"{path}: is {what}, expected RecordIO")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the map; views that are still in use keep it alive."""
        self._view.release()
        with contextlib.suppress(BufferError):  # a caller still holds a view; the map is closed with the last of them
            self._map.close()

    def forget(self) -> None:
        """Release the pages read so far, which otherwise count as this process's memory; views stay valid."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def read(self, offset: int) -> tuple[memoryview, int]:
        """Read the record at `offset`, in bytes from the file's start.

        Returns:
            Its payload and the offset of the next record.

        Raises:
            InputError: There is no complete record; the message names the offset.
        """
        parts: list[memoryview] = []
        while True:
            flag, payload, offset_next = self._part(offset)
            if not parts and flag == _WHOLE:
                return payload, offset_next
            expected = (_FIRST,) if not parts else (_MIDDLE, _LAST)
            if flag not in expected:
                raise InputError(f"{self.path} at byte {offset}: part flag {flag}, expected {expected}")
            parts.append(payload)
            offset = offset_next
            if flag == _LAST:
                return memoryview(MAGIC_BYTES.join(parts)), offset

    def _part(self, offset: int) -> tuple[int, memoryview, int]:
        if offset < 0 or offset + _HEAD.size > self.size:
            raise InputError(f"{self.path} at byte {offset}: the file ends at byte {self.size}, expected a record")
        magic, head = _HEAD.unpack_from(self._view, offset)
        if magic != MAGIC:
            raise InputError(f"{self.path} at byte {offset}: {magic:#010x}, expected the magic {MAGIC:#010x}")
        start, length = offset + _HEAD.size, head & MAX_LENGTH
        if start + length > self.size:
            raise InputError(f"{self.path} at byte {offset}: a record of {length} bytes, cut off at byte {self.size}")
        return head >> 29, self._view[start : start + length], start + (length + 3) // 4 * 4

    def image(self, offset: int) -> ImageRecord:
        """The image record at `offset`; InputError, naming the offset, if there is none."""
        return self._unpack(offset, self.read(offset)[0])

    def label_and_image(self, offset: int) -> tuple[float, bytes]:
        """The first label and a copy of the encoded image of the record at `offset`; errors like `image`."""
        if 0 <= offset <= self.size - _BOTH.size:
            magic, head, flag, label, _, _ = _BOTH.unpack_from(self._view, offset)
            stop = offset + 8 + head
            if magic == MAGIC and head <= MAX_LENGTH and stop <= self.size and head >= 24 and flag == 0:
                return label, self._map[offset + 32 : stop]  # the usual case: one part, one label
        record = self.image(offset)
        return record.labels[0], bytes(record.image)

    def images(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, ImageRecord]]:
        """Like `scan`, with each payload split into its image header and image."""
        offset = self._resync(start)
        size, view, unpack = self.size, self._view, _BOTH.unpack_from
        end = size if end is None else min(end, size)
        last = size - _BOTH.size
        while offset < end:
            if offset <= last:
                magic, head, flag, label, id_, id2 = unpack(view, offset)
                stop = offset + 8 + head
                if magic == MAGIC and 24 <= head <= MAX_LENGTH and stop <= size and flag == 0:  # the usual case
                    yield offset, ImageRecord(0, (label,), id_, id2, view[offset + 32 : stop])
                    offset = (stop + 3) & ~3
                    continue
            payload, following = self.read(offset)
            yield offset, self._unpack(offset, payload)
            offset = following

    def _unpack(self, offset: int, payload: memoryview) -> ImageRecord:
        try:
            return unpack_image(payload, "")
        except InputError as error:  # the place is formatted only when it is needed
            raise InputError(f"{self.path} at byte {offset}{error}") from error

    def heads(self, offsets: NDArray[np.int64]) -> Heads:
        """The headers at `offsets` (multiples of four, each at least eight bytes before the file's end)."""
        words = np.frombuffer(self._map, "<u4", count=self.size // 4)
        magic = np.empty(len(offsets), np.bool_)
        head = np.empty(len(offsets), np.uint32)
        label = np.empty(len(offsets), np.uint32)
        for begin in range(0, len(offsets), _GATHER):
            part = slice(begin, begin + _GATHER)
            indices = offsets[part] // 4
            magic[part] = words[indices] == MAGIC
            head[part] = words[indices + 1]
            # The label stands in the image header where its flag is 0, else behind it.
            listed = words[np.minimum(indices + 2, len(words) - 1)] != 0
            label[part] = words[np.minimum(indices + np.where(listed, 8, 3), len(words) - 1)]
            self.forget()
        length = (head & MAX_LENGTH).astype(np.int64)
        labels = np.where(magic & (length >= _IMAGE_HEAD.size), label.view(np.float32), np.float32(np.nan))
        return Heads(magic, (head >> 29).astype(np.uint8), length, labels)

    def ids(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ids in the image headers at `offsets`, as for `heads`; -1 for one that is not the size of a key."""
        words = np.frombuffer(self._map, "<u4", count=self.size // 4)
        ids = np.empty(len(offsets), np.int64)
        for begin in range(0, len(offsets), _GATHER):
            part = slice(begin, begin + _GATHER)
            low, high = (words[np.minimum(offsets[part] // 4 + place, len(words) - 1)] for place in (4, 5))
            ids[part] = np.where((high == 0) & (low < 1 << 31), low, -1)
            self.forget()
        return ids

    def offsets(self) -> NDArray[np.int64]:
        """The offset of every record, by a scan of the file."""

        def offsets() -> Iterator[int]:
            next_time = _FORGET
            for offset, _ in self.scan():
                if offset > next_time:
                    self.forget()
                    next_time = offset + _FORGET
                yield offset

        return np.fromiter(offsets(), np.int64)

    def begins_at(self, offset: int) -> bool:
        """Whether a record begins at `offset`: the header of its first or only part."""
        if offset + _HEAD.size > self.size or self._map[offset : offset + 4] != MAGIC_BYTES:
            return False
        return self._map[offset + 7] >> 5 in (_WHOLE, _FIRST)

    def scan(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, memoryview]]:
        """Every record as (offset, payload), in file order, of those that begin in bytes [start, end).

        `start` may lie anywhere: the first record at or after it is found by its magic (the writer removes every magic
        inside a payload). Byte ranges that cut the file into pieces therefore give every record exactly once.
        """
        offset = self._resync(start)
        size, view, unpack = self.size, self._view, _HEAD.unpack_from
        end = size if end is None else min(end, size)
        last = size - _HEAD.size
        while offset < end:
            if offset <= last:
                magic, head = unpack(view, offset)
                stop = offset + 8 + head
                if magic == MAGIC and head <= MAX_LENGTH and stop <= size:  # the usual case, without a call
                    yield offset, view[offset + 8 : stop]
                    offset = (stop + 3) & ~3
                    continue
            payload, following = self.read(offset)
            yield offset, payload
            offset = following

    def _resync(self, start: int) -> int:
        offset = (max(start, 0) + 3) // 4 * 4
        if offset == 0:
            return 0
        while True:
            offset = self._map.find(MAGIC_BYTES, offset)
            if offset < 0 or offset + _HEAD.size > self.size:
                return self.size
            if offset % 4 == 0 and self._view[offset + 7] >> 5 in (_WHOLE, _FIRST):
                return offset
            offset += 1


class RecordWriter:
    """Appends records to a new `.rec` file and their keys and offsets to its `.idx`."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb", buffering=1 << 20)
        self._index = path.with_suffix(".idx").open("w", encoding="ascii")
        self._offset = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._index.close()

    def write(self, key: int, payload: bytes) -> int:
        """Write one record and return its byte offset; ValueError if a part exceeds 2^29 - 1 bytes."""
        offset = self._offset
        parts = _split(payload)
        if max(map(len, parts)) > MAX_LENGTH:
            raise ValueError(f"a record of {len(payload)} bytes, expected at most RecordIO's {MAX_LENGTH}")
        for number, part in enumerate(parts):
            first, last = number == 0, number == len(parts) - 1
            flag = (_WHOLE if last else _FIRST) if first else (_LAST if last else _MIDDLE)
            self._file.write(_HEAD.pack(MAGIC, flag << 29 | len(part)))
            self._file.write(part)
            self._file.write(b"\0" * (-len(part) % 4))
            self._offset += _HEAD.size + (len(part) + 3) // 4 * 4
        self._index.write(f"{key}\t{offset}\n")
        return offset


def _split(payload: bytes) -> list[bytes]:
    parts, begin, search = [], 0, 0
    while (magic := payload.find(MAGIC_BYTES, search)) >= 0:
        if magic % 4:
            search = magic + 1
            continue
        parts.append(payload[begin:magic])
        begin = search = magic + 4
    parts.append(payload[begin:])
    return parts


@dataclass(frozen=True, slots=True)
class Index:
    """An `.idx`: the keys and byte offsets of its lines (int64), in its order."""

    keys: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)


def read_index(path: Path) -> Index:
    """Read an `.idx` file, `key<TAB>byte offset` per line; InputError names a line of another form."""
    try:
        table = pc.read_csv(
            path,
            read_options=pc.ReadOptions(column_names=["key", "offset"]),
            parse_options=pc.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
            convert_options=pc.ConvertOptions(column_types={"key": pa.int64(), "offset": pa.int64()}, null_values=[]),
        )
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except pa.ArrowException:  # it does not name the line, so they are read one by one
        return _read_index_lines(path)
    return Index(table["key"].to_numpy(), table["offset"].to_numpy())


def _read_index_lines(path: Path) -> Index:
    rows: list[tuple[int, int]] = []
    if path.stat().st_size and (what := describe_file(path)):
        raise InputError(f"{path}: is {what}, expected lines of 'key<TAB>offset'")
    with path.open(encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            key, _, offset = line.rstrip("\r\n").partition("\t")
            try:
                rows.append((_int64(key), _int64(offset)))
            except ValueError as error:
                raise InputError(f"{path} line {number}: {line[:60]!r}, expected 'key<TAB>offset'") from error
    table = np.array(rows, np.int64).reshape(-1, 2)
    return Index(table[:, 0], table[:, 1])


def _int64(text: str) -> int:
    """A whole number, limited to 64 bits: any larger one lies beyond the end of every file."""
    return max(min(int(text), (1 << 63) - 1), -(1 << 63))
