"""One part of a `.rec` in S3 by its byte ranges: the index is read whole, of the records only those of the part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from eolgul import storage
from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.extract.people import limits_given, lists_given
from eolgul.formats.recordio import read_index
from eolgul.formats.synthetic import SYNTHETIC_MARK
from eolgul.storage.far import FarEntry, FarFolder
from eolgul.storage.ranges import Ranges, fill
from eolgul.storage.scratch import scratch_folder

_IDENTITY_BYTES = 40  # of a record without an image, as InsightFace writes them behind the images
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
    if config.byte_range is None or config.reader == "mxnet" or lists_given(config) or limits_given(config):
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
        ranges = _ranges(here / index, rec.size, config.byte_range)
        if ranges is None:
            yield None
            return
        fill(here / name, rec, ranges)
        yield here / name, ranges


def _file(entry: FarEntry) -> storage.FarFile:
    if entry.file is None:
        raise InputError(f"{entry.path}: is a folder, expected a file")
    return entry.file


def _ranges(index: Path, size: int, part: tuple[int, int]) -> Ranges | None:
    """The bytes of a part: its records, the first ones, and from the last image to the end; None if the index is odd."""
    offsets = np.sort(read_index(index).offsets)
    if not len(offsets) or offsets[0] != 0 or offsets[-1] >= size:
        return None
    ends = np.append(offsets[1:], size)
    number, count = part
    mine = (offsets >= size * (number - 1) // count) & (offsets < size * number // count)
    without = ends - offsets == _IDENTITY_BYTES
    last = len(offsets) - int(np.argmin(without[::-1])) - 1 if not without.all() else 0
    if not mine.any():
        return None
    begin, end = int(offsets[mine][0]), int(ends[mine][-1])
    wanted = [(begin, end), (0, int(ends[min(_FIRST, len(ends)) - 1])), (int(offsets[last]), size)]
    return Ranges.of(wanted)
