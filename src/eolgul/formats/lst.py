"""InsightFace's `.lst`: one line per image, `aligned <tab> path <tab> label`, optionally with a box and five landmarks.

`aligned` is 1 for an image that is already on the alignment template, else 0. The box is x1, y1, x2, y2 in pixels. The
landmarks are five x and then five y, or x and y in turn, depending on the list's author; they are kept unchanged.
Lists of `im2rec` hold index, label, path instead; they are another format and are refused by their third field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from eolgul.errors import InputError

_FIELDS = {3: "none", 7: "a box", 17: "a box and landmarks"}
_EXPECTED = "'aligned<TAB>path<TAB>label', then a box of 4 numbers and 10 of landmarks or nothing"
_MAX_LINE = 1 << 16  # bytes; a longer line does not belong to a list


class Row(NamedTuple):
    """One image of a list: its path as written, its label, and the box and the ten landmark numbers if given."""

    path: str
    label: float
    aligned: bool
    box: tuple[float, ...] | None = None
    landmarks: tuple[float, ...] | None = None


def read_lst(path: Path) -> Iterator[Row]:
    """Read the rows of a `.lst` line by line; InputError names a line of another format, or one that is not UTF-8."""
    try:
        with path.open("rb") as lines:
            number = 0
            while raw := lines.readline(_MAX_LINE):
                number += 1
                line = raw.rstrip(b"\r\n")
                if line:
                    yield _row(line, f"{path} line {number}")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _row(raw: bytes, where: str) -> Row:
    try:
        fields = raw.decode().split("\t")
        if len(fields) not in _FIELDS or fields[0] not in ("0", "1") or not fields[1] or "\0" in fields[1]:
            raise ValueError
        label, *rest = (float(field) for field in fields[2:])
        if not all(map(math.isfinite, (label, *rest))):
            raise ValueError
    except ValueError as error:  # also of decoding
        raise InputError(f"{where}: {raw[:60].decode(errors='replace')!r}, expected {_EXPECTED}") from error
    return Row(fields[1], label, fields[0] == "1", tuple(rest[:4]) or None, tuple(rest[4:]) or None)


def write_lst(path: Path, rows: Iterable[Row]) -> None:
    """Write a list that `read_lst` reads back unchanged; ValueError for a path that a line cannot hold."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            if not row.path or any(character in row.path for character in "\t\r\n\0"):
                raise ValueError(f"{row.path!r}: a .lst cannot hold such a path")
            numbers = [row.label, *(row.box or ()), *((row.landmarks or ()) if row.box else ())]
            if row.landmarks and not row.box:
                raise ValueError(f"{row.path!r}: landmarks need a box before them")
            file.write("\t".join([str(int(row.aligned)), row.path, *map(_number, numbers)]) + "\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
