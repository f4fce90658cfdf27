"""Read bcolz carrays as InsightFace_Pytorch writes them.

A carray is a folder `<name>/{data/__N.blp, meta/sizes, meta/storage}` with `<name>_list.npy`, the is-same flags, beside it.
A `.blp` is a 16-byte header (`blpk`, format version, three reserved bytes, int64 number of chunks) and one Blosc-1 chunk.
The array is float32, N x 3 x 112 x 112, (x - 127.5) / 127.5, channels blue, green, red. All numbers of a header are
checked before anything is allocated for them.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc
import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError, one_line

ITEM = (3, 112, 112)
_ITEM_BYTES = 4 * 3 * 112 * 112
_PACK = struct.Struct("<4sB3xq")  # magic, format version, number of chunks (-1: not stated)
_BLOSC = struct.Struct("<BBBBIII")  # version, codec's version, flags, type size, bytes, block size, compressed bytes
_META_BYTES = 1 << 20
_FLAGS = 1 << 24  # bytes of a list, one per pair; the largest known set has 7,000
# Python 2 writes the length as a long.
_NPY = re.compile(rb"\{'descr': '\|b1', 'fortran_order': (?:False|True), 'shape': \((\d{1,9})L?,\),? *\} *\n", re.ASCII)
_CHUNK_BYTES = 256 << 20  # bcolz makes chunks of up to a few MB; a larger one is malicious
blosc.set_nthreads(1)  # its threads do not survive a fork, and readers run in parallel anyway


@dataclass(frozen=True, slots=True)
class Carray:
    """An opened carray of 2N images, pair i being images 2i and 2i+1; `same` (N) says which pairs show one person."""

    folder: Path
    list_file: Path
    same: NDArray[np.bool_]
    chunk_length: int

    def __len__(self) -> int:
        return 2 * len(self.same)

    def images(self, begin: int = 0, end: int | None = None) -> Iterator[NDArray[np.uint8]]:
        """Read images begin…end-1, with one chunk in memory at a time.

        Yields:
            uint8 RGB, 112 x 112 x 3.

        Raises:
            InputError: A chunk is broken or has unexpected content; the message names its file and the byte or the image.
        """
        end = len(self) if end is None else min(end, len(self))
        while begin < end:
            number, first = divmod(begin, self.chunk_length)
            last = min(end - number * self.chunk_length, self.chunk_length)
            file, values = self._chunk(number)
            for item in range(first, last):
                yield _pixels(values[item], f"{file} image {number * self.chunk_length + item}")
            begin = number * self.chunk_length + last

    def _chunk(self, number: int) -> tuple[Path, NDArray[np.float32]]:
        """A chunk's file and its items; the last chunk may be as long as the others, or just long enough."""
        file = self.folder / "data" / f"__{number}.blp"
        full = self.chunk_length * _ITEM_BYTES
        needed = min(len(self) - number * self.chunk_length, self.chunk_length) * _ITEM_BYTES
        packed = _read(file, full + _PACK.size + (64 << 10))  # incompressible data grows slightly
        if len(packed) < _PACK.size + _BLOSC.size:
            raise InputError(f"{file}: {len(packed)} bytes, expected a header of 16 and a Blosc chunk")
        magic, version, chunks = _PACK.unpack_from(packed)
        if magic != b"blpk" or version != 1 or chunks not in (1, -1):
            raise InputError(f"{file} at byte 0: not a 'blpk' header of format 1 and one chunk")
        _, _, _, _, size, block, compressed = _BLOSC.unpack_from(packed, _PACK.size)
        if size not in (needed, full) or block > size or compressed != len(packed) - _PACK.size:
            raise InputError(
                f"{file} at byte {_PACK.size}: a Blosc chunk of {size} bytes in {compressed}, expected {needed} bytes in "
                f"the file's {len(packed) - _PACK.size}"
            )
        try:
            data = blosc.decompress(packed[_PACK.size :])
        except Exception as error:  # blosc.error, which the library does not export
            raise InputError(f"{file} at byte {_PACK.size}: the Blosc chunk is broken ({one_line(error)})") from error
        if len(data) != size:
            raise InputError(
                f"{file} at byte {_PACK.size}: {len(data)} bytes decompressed, expected the {size} that the chunk states"
            )
        return file, np.frombuffer(data, "<f4").reshape(-1, *ITEM)


def _pixels(values: NDArray[np.float32], where: str) -> NDArray[np.uint8]:
    if not ((values >= -1) & (values <= 1)).all():  # NaN is neither
        raise InputError(f"{where}: holds values outside -1…1, expected (x - 127.5) / 127.5")
    scaled = np.rint(values * np.float32(127.5) + np.float32(127.5))
    return np.ascontiguousarray(scaled.astype(np.uint8).transpose(1, 2, 0)[:, :, ::-1])


def read_carray(folder: Path) -> Carray:
    """Open a carray; its images are read on demand.

    Raises:
        InputError: The folder is not a carray of aligned faces, or its list does not fit.
    """
    sizes, storage = _meta(folder / "meta" / "sizes"), _meta(folder / "meta" / "storage")
    shape, chunk_length = sizes.get("shape"), storage.get("chunklen")
    if not isinstance(shape, list) or len(shape) != 4 or tuple(shape[1:]) != ITEM or type(shape[0]) is not int:
        raise InputError(f"{folder / 'meta' / 'sizes'} line 1: shape {str(shape)[:60]}, expected [N, 3, 112, 112]")
    if storage.get("dtype") not in ("float32", "<f4"):
        raise InputError(
            f"{folder / 'meta' / 'storage'} line 1: dtype {str(storage.get('dtype'))[:60]}, expected float32"
        )
    if type(chunk_length) is not int or not 1 <= chunk_length <= _CHUNK_BYTES // _ITEM_BYTES:
        raise InputError(
            f"{folder / 'meta' / 'storage'} line 1: chunklen {str(chunk_length)[:60]}, expected 1 to "
            f"{_CHUNK_BYTES // _ITEM_BYTES}"
        )
    list_file = folder.with_name(f"{folder.name}_list.npy")
    same = _flags(list_file)
    if shape[0] != 2 * len(same):
        raise InputError(f"{list_file}: {len(same)} flags for {shape[0]} images, expected two images per flag")
    return Carray(folder, list_file, same, chunk_length)


def _meta(file: Path) -> dict[str, Any]:
    try:
        meta = json.loads(_read(file, _META_BYTES))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} line 1: not JSON ({one_line(error)})") from error
    if not isinstance(meta, dict):
        raise InputError(f"{file} line 1: expected a JSON object")
    return meta


def _read(file: Path, limit: int) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(limit + 1)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from error
    if len(data) > limit:
        raise InputError(f"{file}: more than {limit} bytes, expected less")
    return data


def _flags(file: Path) -> NDArray[np.bool_]:
    """Read the flags of a `.npy` (version 1, a row of bool). Its header is matched, not evaluated as numpy does."""
    data = _read(file, _FLAGS)
    length = int.from_bytes(data[8:10], "little")
    header = _NPY.fullmatch(data[10 : 10 + length]) if data[:8] == b"\x93NUMPY\x01\0" else None
    if header is None:
        raise InputError(f"{file} at byte 0: expected a .npy of version 1 that holds a row of bool")
    count = int(header[1])
    if count == 0 or len(data) != 10 + length + count:
        raise InputError(f"{file} at byte {10 + length}: {len(data) - 10 - length} bytes, expected {count} flags")
    flags: NDArray[np.bool_] = (
        np.frombuffer(data, np.uint8, offset=10 + length) != 0
    )  # a bool in a file can be any byte
    return flags
