"""One part or share of a `.rec` in S3 by its byte ranges: the index is read whole, of the records only those that it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from eolgul import storage
from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.extract.people import limits_given, lists_given
from eolgul.extract.sources import RecTask, plan_rec
from eolgul.formats.rec_index import PartialError
from eolgul.formats.recordio import read_index
from eolgul.formats.synthetic import SYNTHETIC_MARK
from eolgul.storage.far import FarEntry, FarFolder
from eolgul.storage.ranges import Ranges, fill
from eolgul.storage.scratch import scratch_folder

_IDENTITY_BYTES = 40  # of a record without an image, as InsightFace writes them behind the images
_LEAST_BYTES = 8 + 24  # of any record: its head and an image's header
_FIRST = 4  # records at the beginning that tell the layout


@contextmanager
def part_of_rec(source: str, config: ExtractConfig) -> Iterator[tuple[Path, Ranges] | None]:
    """A `.rec` of which only a part is here; None where all of it is needed, or no index says what a part is.

    Lists of people and limits need the labels of all records, which lie among the images.

    Args:
        source: A `.rec`, or the folder of a `train.rec`, in S3.
        config: The options.

    Yields:
        The file, which has holes, and what is there of it. It is removed at the end.
    """
    if config.byte_range is None and config.share is None:
        yield None
        return
    if config.reader == "mxnet" or lists_given(config) or limits_given(config):
        yield None
        return
    folder, _, name = source.rpartition("/") if source.endswith(".rec") else (source.rstrip("/"), "", "train.rec")
    found = {entry.name: entry for entry in FarFolder(folder).scan("")}
    index = f"{name.removesuffix('.rec')}.idx"
    if name not in found or index not in found:
        yield None
        return
    with scratch_folder("ranges") as here:
        for beside in (index, "property", SYNTHETIC_MARK):
            if beside in found:
                (here / beside).write_bytes(_file(found[beside]).read_bytes())
        rec = _file(found[name])
        table = _Table.read(here / index, rec.size)
        if table is None:
            yield None
            return
        wanted = table.around()
        if config.share is not None:
            # First with what tells the layout: the plan says which records the share has, without a look at any of them.
            fill(here / name, rec, Ranges.of(wanted))
            try:
                plan = plan_rec(here / name, config, Ranges.of(wanted))
            except PartialError:
                yield None
                return
            wanted += [table.span(task.offsets) for task in plan.tasks if isinstance(task, RecTask)]
        elif config.byte_range is not None:
            mine = table.part(config.byte_range)
            if not mine.any():
                yield None
                return
            wanted.append(table.span(table.offsets[mine]))
        fill(here / name, rec, Ranges.of(wanted))
        yield here / name, Ranges.of(wanted)


def _file(entry: FarEntry) -> storage.FarFile:
    if entry.file is None:
        raise InputError(f"{entry.path}: is a folder, expected a file")
    return entry.file


class _Table(NamedTuple):
    """Where the records of a file begin and end in bytes, by its index (both int64, ascending)."""

    offsets: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def read(cls, index: Path, size: int) -> Self | None:
        """Read the index of a file of `size` bytes; None if it is odd."""
        offsets = np.sort(read_index(index).offsets)
        if not len(offsets) or offsets[0] != 0 or offsets[-1] >= size:
            return None
        ends = np.append(offsets[1:], size)
        return cls(offsets, ends) if (ends - offsets).min() >= _LEAST_BYTES else None

    def part(self, part: tuple[int, int]) -> NDArray[np.bool_]:
        """Which records begin in a byte range of the file, the i-th of n."""
        number, count = part
        size = int(self.ends[-1])
        return (self.offsets >= size * (number - 1) // count) & (self.offsets < size * number // count)

    def around(self) -> list[tuple[int, int]]:
        """The bytes that tell the layout: the first records, and from the last image to the end."""
        without = self.ends - self.offsets == _IDENTITY_BYTES
        last = len(self.offsets) - int(np.argmin(without[::-1])) - 1 if not without.all() else 0
        return [(0, int(self.ends[min(_FIRST, len(self.ends)) - 1])), (int(self.offsets[last]), int(self.ends[-1]))]

    def span(self, offsets: NDArray[np.int64]) -> tuple[int, int]:
        """The bytes from the first to the last of the records at these offsets; -1 stands for one that is missing."""
        there = offsets[offsets >= 0]
        if not len(there):
            return 0, 0
        return int(there.min()), int(self.ends[np.searchsorted(self.offsets, there.max())])
