"""Lists of images, `.lst`: InsightFace's, im2rec's, and plain ones of a path and a label.

InsightFace's has one line per image, `aligned <tab> path <tab> label`, optionally with a box and five landmarks.
`aligned` is 1 for an image that is already on the alignment template, else 0. The box is x1, y1, x2, y2 in pixels. The
landmarks are five x and then five y, or x and y in turn, depending on the list's author; they are kept unchanged. im2rec's
is `index <tab> label <tab> path`; a plain one `path <tab> label`, or with a space. The first line decides for the list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from eolgul.content import LOOKED_AT, describe_content
from eolgul.errors import InputError, printable

_FIELDS = {3: "none", 7: "a box", 17: "a box and landmarks"}
_MAX_LINE = 1 << 16  # bytes; a longer line does not belong to a list
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


class Row(NamedTuple):
    """One image of a list: its path as written, its label, and the box and the ten landmark numbers if given.

    `aligned` is false where the list does not say it.
    """

    path: str
    label: float
    aligned: bool
    box: tuple[float, ...] | None = None
    landmarks: tuple[float, ...] | None = None


def read_lst(path: Path) -> Iterator[Row]:
    """Read the rows of a `.lst` line by line, in UTF-8 with or without a byte order mark.

    Raises:
        InputError: A line has another form than the first one, or is not UTF-8 (the message names it), or the file is
            something else than a list.
    """
    read: Callable[[str], Row] | None = None
    try:
        with path.open("rb") as lines:
            head = lines.read(LOOKED_AT)
            what = describe_content(head) if head else None
            if what is not None:
                raise InputError(f"{path}: is {what}, expected a list of images")
            lines.seek(3 if head.startswith(b"\xef\xbb\xbf") else 0)
            number = 0
            while raw := lines.readline(_MAX_LINE):
                number += 1
                line = raw.rstrip(b"\r\n")
                if line.strip():
                    try:
                        text = line.decode()
                        if read is None:
                            read = _form(text)
                        yield read(text)
                    except ValueError as error:  # also of decoding
                        where = f"{path} line {number}: '{printable(line[:60].decode(errors='replace'))}'"
                        raise InputError(f"{where}, expected {_expected(read, line)}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _form(line: str) -> Callable[[str], Row]:
    """The reader of the list whose first line this is; ValueError when none fits, or more than one."""
    fields = line.split("\t")
    forms: list[Callable[[str], Row]] = [_insightface] if len(fields) > 1 else [_spaced]
    if len(fields) == 3:
        forms.append(_im2rec)
    elif len(fields) == 2:
        forms = [_plain]
    fitting = [form for form in forms if _fits(form, line)]
    if len(fitting) != 1:
        raise ValueError(line)
    return fitting[0]


def _fits(form: Callable[[str], Row], line: str) -> bool:
    try:
        form(line)
    except ValueError:
        return False
    return True


def _insightface(line: str) -> Row:
    fields = line.split("\t")
    if len(fields) not in _FIELDS or fields[0] not in ("0", "1"):
        raise ValueError(line)
    label, *rest = (float(field) for field in fields[2:])
    if not all(map(math.isfinite, (label, *rest))):
        raise ValueError(line)
    return Row(_path(fields[1]), label, fields[0] == "1", tuple(rest[:4]) or None, tuple(rest[4:]) or None)


def _im2rec(line: str) -> Row:
    index, label, path = line.split("\t")
    if not re.fullmatch(r"\d+", index) or re.fullmatch(_NUMBER, path):
        raise ValueError(line)
    return Row(_path(path), _label(label), False)


def _plain(line: str) -> Row:
    path, label = line.split("\t")
    return Row(_path(path), _label(label.strip()), False)


def _spaced(line: str) -> Row:
    """`path label`; `0 path label` is refused, since 0 might be a folder's name or say that the image is not aligned."""
    match = re.fullmatch(rf"\s*(\S.*?)\s+({_NUMBER})\s*", line)
    if match is None or re.match(r"[01]\s+\S", match[1]):
        raise ValueError(line)
    return Row(_path(match[1]), _label(match[2]), False)


def _label(text: str) -> float:
    if not re.fullmatch(_NUMBER, text) or not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text)


def _path(text: str) -> str:
    if len(text) > 2 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if not text or "\0" in text:
        raise ValueError(text)
    return text


_EXPECTED: dict[Callable[[str], Row] | None, str] = {
    None: "'aligned<TAB>path<TAB>label', 'index<TAB>label<TAB>path' or 'path<TAB>label'",
    _insightface: "'aligned<TAB>path<TAB>label', then a box of 4 numbers and 10 of landmarks or nothing",
    _im2rec: "'index<TAB>label<TAB>path' as in the first line",
    _plain: "'path<TAB>label' as in the first line",
    _spaced: "'path label' as in the first line",
}


def _expected(read: Callable[[str], Row] | None, line: bytes) -> str:
    if read is None and re.match(rb"[01]\s+\S+\s+\d", line) and b"\t" not in line:
        return "tabs between the fields: 'aligned<TAB>path<TAB>label'"
    return _EXPECTED[read]


def write_lst(path: Path, rows: Iterable[Row]) -> None:
    """Write InsightFace's list, which `read_lst` reads back; ValueError for a path that a line cannot hold."""
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
