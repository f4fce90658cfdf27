"""A large object of which only some ranges are needed: a file of its size on the local disk, with holes for the rest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eolgul.storage.far import FarFile
from eolgul.storage.s3 import THREADS

_REQUEST = 16 << 20  # bytes of one request


class Ranges(NamedTuple):
    """Which bytes of a file are there.

    Attributes:
        bounds: Begin and end (exclusive) of each range in bytes, ascending; they do not overlap.
    """

    bounds: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, wanted: Sequence[tuple[int, int]]) -> Ranges:
        """Ranges that may overlap and come in any order."""
        joined: list[tuple[int, int]] = []
        for begin, end in sorted(pair for pair in wanted if pair[0] < pair[1]):
            if joined and begin <= joined[-1][1]:
                joined[-1] = joined[-1][0], max(end, joined[-1][1])
            else:
                joined.append((begin, end))
        return cls(tuple(joined))

    def hold(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether all bytes from each of `begins` to the one of `ends` are there (bool, one per pair)."""
        if not self.bounds:
            return np.zeros(len(begins), np.bool_)
        first, last = np.array(self.bounds, np.int64).T
        row = np.searchsorted(first, begins, side="right") - 1
        found: NDArray[np.bool_] = (row >= 0) & (ends <= last[np.maximum(row, 0)])
        return found


def fill(path: Path, file: FarFile, ranges: Ranges) -> None:
    """Write ranges of an object to a file of its size; what is not in them stays a hole, which takes no disk.

    Raises:
        InputError: It was replaced since it was listed, or S3 does not answer.
        OSError: It is gone, or the disk is full.
    """
    pieces = [
        (begin, min(begin + _REQUEST, end)) for first, end in ranges.bounds for begin in range(first, end, _REQUEST)
    ]
    with path.open("r+b" if path.exists() else "w+b") as out, ThreadPoolExecutor(THREADS) as pool:
        os.truncate(out.fileno(), file.size)

        def get(piece: tuple[int, int]) -> None:
            os.pwrite(out.fileno(), file.read_range(piece[0], piece[1] - piece[0]), piece[0])

        list(pool.map(get, pieces))
