"""Pair lists of benchmarks: which two images are compared, whether they show one person, and the fold of the pair.

Read are LFW's lists (`pairs.txt`, `pairsDevTest.txt`, …: `name n1 n2` and `name1 n1 name2 n2`, with one or two numbers
before them or none, and as CSV), `path path 0|1` or `0|1 path path`, CSV with a header (that of `export` too), and the
lists of CALFW and CPLFW, where a pair is two lines `file flag`. Fields are separated by tabs, semicolons, commas or spaces.

Sources: the README of LFW; Zheng, Deng, Hu: Cross-Age LFW (the flag of a genuine pair is its fold, 1 to 10, or just 1).
"""

from __future__ import annotations

import codecs
import csv
import itertools
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from eolgul.content import describe_content
from eolgul.errors import InputError, printable

FOLDS = 10
_logger = logging.getLogger("eolgul.formats.pair_lists")
_MOST = 1_000_000
_SAME = {
    **dict.fromkeys(("1", "1.0", "true", "t", "yes", "same", "genuine", "match", "matched", "positive"), True),
    **dict.fromkeys(("0", "0.0", "-1", "-1.0", "false", "f", "no", "different", "impostor", "mismatch"), False),
    **dict.fromkeys(("mismatched", "negative"), False),
}
_SAME_COLUMN = re.compile(
    r"(is)?(same|match|matched|genuine|positive)(person)?|label|target|flag|y|gt|issame|actualissame"
)
_SUFFIX = r"\.(?:jpe?g|png|webp|bmp|gif|tiff?|p[gp]m|hei[cf]|avif|jp2|jfif|jpe)"
_PATHS = rf"(\S.*?{_SUFFIX})\s+(\S.*?{_SUFFIX})"
_SPACED = (re.compile(rf"{_PATHS}\s+(\S+)", re.I), re.compile(rf"(\S+)\s+{_PATHS}", re.I))
_FORMS = "'name n1 n2', 'name1 n1 name2 n2', 'path path 0|1' or 'file flag'"


class Pair(NamedTuple):
    """Two images by their ids or by their paths as listed, whether they show one person, and the fold."""

    left: str
    right: str
    same: bool
    fold: int


class _Row(NamedTuple):
    number: int
    line: str
    words: list[str]


class _Listed(NamedTuple):
    left: str
    right: str
    same: bool


def image_key(name: str, number: int) -> str:
    """The image id of a person's n-th image, as extraction builds it."""
    return f"{name}/{name}_{number:04}"


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 with its mark; a byte order mark is left out.

    Raises:
        InputError: It cannot be read, or is something else: the message names what, or the first byte that is not text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    what = describe_content(data) if data else None
    if what is not None:
        raise InputError(f"{path}: is {what}, expected a list in plain text")
    try:
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} at byte {error.start}: expected text in UTF-8") from error


def read_pairs(path: Path) -> list[Pair]:
    """Read a pair list in any of the forms above.

    Folds are those that the list states, by its numbers, its column or its blocks (ten times genuine, then impostor
    pairs). A list that states none is cut, each class for itself, into ten consecutive parts of equal size.

    Raises:
        InputError: A line does not fit the list's form (the message names it), a kind of pair is missing, or there are too
            few pairs for ten folds.
    """
    rows = list(_rows(read_text(path)))
    if not rows:
        raise InputError(f"{path} line 1: the list is empty, expected lines {_FORMS}")
    counts = _counts(path, rows[0])
    body = rows[1:] if counts else rows
    columns = None if counts else _columns(path, rows[0])
    stated: list[int] | None = None
    if columns is not None:
        listed, stated = _table(path, columns, rows)
    elif not body:
        raise InputError(f"{path} line {rows[0].number}: no pair follows, expected lines {_FORMS}")
    else:
        listed = _plain(path, body)
    classes = [sum(pair.same == same for pair in listed) for same in (True, False)]
    if 0 in classes:
        kinds = ("genuine", "impostor") if classes[1] == 0 else ("impostor", "genuine")
        raise InputError(
            f"{path}: holds only {kinds[0]} pairs ({len(listed)}), a benchmark needs both kinds; add the lines of the list "
            f"with the {kinds[1]} pairs"
        )
    folds = _folds(path, listed, counts, stated)
    return [Pair(*pair, fold) for pair, fold in zip(listed, folds, strict=True)]


def _rows(text: str) -> Iterator[_Row]:
    """The lines that are not empty, in words: by the separator that every line has but perhaps the first."""
    lines = [(number, line) for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1) if line.strip()]
    rest = lines[1:] or lines
    separator = next((mark for mark in "\t;," if all(mark in line for _, line in rest)), None)
    for number, line in lines:
        words = line.split() if separator is None or separator not in line else _cut(line, separator)
        yield _Row(number, line, words)


def _cut(line: str, separator: str) -> list[str]:
    words = [word.strip() for word in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]
    if separator == "\t":
        return [word for word in words if word]
    while words and not words[-1]:
        words.pop()
    return words


def _counts(path: Path, row: _Row) -> tuple[int, ...] | None:
    """The numbers of LFW's first line: pairs per class, or folds and pairs per class in each; None if it is another line."""
    if len(row.words) > 2 or not all(re.fullmatch(r"[+-]?\d+", word) for word in row.words):
        return None
    if not all(re.fullmatch(r"0*[1-9]\d{0,5}|0*1000000", word) for word in row.words):
        raise _bad(path, row, f"'pairs per class' or 'folds<TAB>pairs per class', from 1 to {_MOST}")
    return tuple(int(word) for word in row.words)


def _bad(path: Path, row: _Row, expected: str) -> InputError:
    return InputError(f"{path} line {row.number}: '{printable(row.line.strip()[:80])}', expected {expected}")


class _Columns(NamedTuple):
    """The columns of a table: those of two paths (or None: LFW's names and numbers), of the class and of the fold."""

    paths: tuple[int, int] | None
    same: int | None
    fold: int | None
    first: int  # 1 where the first column is pandas' row number


def _columns(path: Path, row: _Row) -> _Columns | None:
    """What the header of a table names; None if the first line is not a header."""
    names = [re.sub(r"[\s_.:-]", "", word.lower()) for word in row.words]
    same = next((place for place, name in enumerate(names) if _SAME_COLUMN.fullmatch(name)), None)
    numbers = [name for name in names if name.startswith(("imagenum", "imgnum"))]
    if any("/" in word or re.search(rf"{_SUFFIX}$", word, re.I) for word in row.words) or (
        same is None and not numbers
    ):
        return None
    fold = next((place for place, name in enumerate(names) if name in ("fold", "folds", "foldid")), None)
    first = int(names[0] in ("", "unnamed0", "index"))
    if numbers:
        return _Columns(None, same, fold, first)
    sides = [place for place in range(first, len(names)) if place not in (same, fold)]
    if len(sides) > 2:
        known = r"(left|right|path|file|filename|image|img|photo|a|b)\w*"
        sides = [place for place in sides if re.fullmatch(known, names[place])]
    if len(sides) != 2:
        raise _bad(path, row, "a header with two columns of paths, one of 0|1 and perhaps one called fold")
    return _Columns((sides[0], sides[1]), same, fold, first)


def _table(path: Path, columns: _Columns, rows: list[_Row]) -> tuple[list[_Listed], list[int] | None]:
    """The pairs below a header, and their folds if it names them. The header may stand again between joined lists."""
    header = rows[0].words
    listed, folds = [], []
    for row in rows[1:]:
        if row.words == header:
            continue
        words = row.words
        same = None
        if columns.same is not None:
            same = _SAME.get(words[columns.same].lower()) if columns.same < len(words) else None
            if same is None:
                raise _bad(path, row, f"0 or 1 in the column {printable(header[columns.same])!r}")
        if columns.paths is None:
            places = [place for place in range(columns.first, len(words)) if place not in (columns.same, columns.fold)]
            pair = _lfw(path, row, [words[place] for place in places])
            listed.append(pair if same is None else pair._replace(same=same))
        else:
            left, right = (words[place] if place < len(words) else "" for place in columns.paths)
            if not left or not right or same is None:
                raise _bad(path, row, "a path in both columns of paths")
            listed.append(_Listed(left, right, same))
        if columns.fold is not None:
            fold = words[columns.fold] if columns.fold < len(words) else ""
            if not re.fullmatch(r"\d{1,6}", fold):
                raise _bad(path, row, "a whole number in the column of the fold")
            folds.append(int(fold))
    if not listed:
        raise InputError(f"{path} line {rows[0].number}: only a header, expected pairs below it")
    return listed, folds or None


def _plain(path: Path, rows: Sequence[_Row]) -> list[_Listed]:
    """The pairs of a list without a header, by the form that its first line has."""
    first = rows[0].words
    if _is_lfw(first):
        return [_lfw(path, row, row.words) for row in rows]
    if len(first) == 2:
        return _two_lines(path, rows)
    triples = [_triple(row) for row in rows]
    ends = [all(triple is not None and triple[place].lower() in _SAME for triple in triples) for place in (0, 2)]
    if all(ends):
        raise _bad(path, rows[0], "a path that is not 0 or 1: which end of the lines is the class cannot be told")
    if not any(ends):
        place = 0 if len(first) == 3 and first[0].lower() in _SAME and first[2].lower() not in _SAME else 2
        for row, triple in zip(rows, triples, strict=True):
            if triple is None or triple[place].lower() not in _SAME:
                raise _bad(path, row, _FORMS if row is rows[0] else "two paths and 0|1 as in the lines before")
    place = 0 if ends[0] else 2
    return [
        _Listed(*(triple[1:] if place == 0 else triple[:2]), _SAME[triple[place].lower()])
        for triple in triples
        if triple is not None
    ]


def _triple(row: _Row) -> tuple[str, str, str] | None:
    """Three fields; where spaces separate them and are in the paths too, the suffixes of images tell where these end."""
    if len(row.words) == 3:
        return (row.words[0], row.words[1], row.words[2])
    for place, pattern in zip((2, 0), _SPACED, strict=True):
        match = pattern.fullmatch(row.line.strip())
        if match is not None and match[place + 1].lower() in _SAME:
            return (match[1], match[2], match[3])
    return None


def _is_lfw(words: Sequence[str]) -> bool:
    return (len(words) == 3 and words[1].isdecimal() and words[2].isdecimal()) or (
        len(words) == 4 and words[1].isdecimal() and words[3].isdecimal()
    )


def _lfw(path: Path, row: _Row, words: Sequence[str]) -> _Listed:
    numbers = [word for word in words[1::2] if len(words) == 4] or list(words[1:])
    if not _is_lfw(words) or any(len(number) > 9 for number in numbers):
        raise _bad(path, row, "'name n1 n2' or 'name1 n1 name2 n2'")
    if len(words) == 3:
        return _Listed(image_key(words[0], int(words[1])), image_key(words[0], int(words[2])), True)
    # A table writes all four columns for a genuine pair too.
    same = words[0] == words[2]
    return _Listed(image_key(words[0], int(words[1])), image_key(words[2], int(words[3])), same)


def _two_lines(path: Path, rows: Sequence[_Row]) -> list[_Listed]:
    """CALFW's and CPLFW's form: a pair is two consecutive lines `file flag`; the flag of an impostor pair is 0."""
    for row in rows:
        if len(row.words) != 2 or not re.fullmatch(r"\d{1,6}", row.words[1]):
            raise _bad(path, row, _FORMS if row is rows[0] else "'file flag'")
    if len(rows) % 2:
        raise _bad(path, rows[-1] if len(rows) > 1 else rows[0], "a second line 'file flag' of this pair behind it")
    listed = []
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        if one.words[1] != other.words[1]:
            raise _bad(path, other, f"the flag {one.words[1]} of the line before, which is of the same pair")
        listed.append(_Listed(one.words[0], other.words[0], int(one.words[1]) != 0))
    return listed


def _folds(
    path: Path, listed: Sequence[_Listed], counts: tuple[int, ...] | None, stated: list[int] | None
) -> list[int]:
    """The fold of every pair."""
    if stated is not None and len(set(stated)) > 1:
        return stated
    runs = [(same, len(list(run))) for same, run in itertools.groupby(listed, key=lambda pair: pair.same)]
    if counts is not None:
        _check_counts(path, listed, counts, len(runs))
        if len(counts) == 2 and counts[0] > 1:
            if runs == [(same, counts[1]) for _ in range(counts[0]) for same in (True, False)]:
                return [place // (2 * counts[1]) for place in range(len(listed))]
            return _by_runs(runs)
    if len(runs) == 2 * FOLDS and runs[0][0]:
        return _by_runs(runs)
    return consecutive_parts(path, [pair.same for pair in listed])


def _by_runs(runs: Iterable[tuple[bool, int]]) -> list[int]:
    return [place // 2 for place, (_, length) in enumerate(runs) for _ in range(length)]


def _check_counts(path: Path, listed: Sequence[_Listed], counts: tuple[int, ...], runs: int) -> None:
    """Compare the list with what its first line announces: other counts are a warning, other folds an error."""
    each, folds = counts[-1], counts[0] if len(counts) == 2 else 1
    if folds > 1 and runs != 2 * folds:
        raise InputError(
            f"{path}: {len(listed)} pair lines in {runs} blocks of genuine and impostor pairs, expected {2 * folds * each} "
            f"in {2 * folds} ({folds} folds of 2 x {each}); is it cut off?"
        )
    if len(listed) != 2 * folds * each:
        _logger.warning("%s: its first line announces %d pairs, it holds %d", path, 2 * folds * each, len(listed))


def consecutive_parts(path: Path, same: Sequence[bool]) -> list[int]:
    """Cut each class into ten consecutive parts of equal size, so that every fold has both, whatever the list's order.

    Raises:
        InputError: A class has fewer than ten pairs.
    """
    totals = [sum(value == kind for value in same) for kind in (False, True)]
    if min(totals) < FOLDS:
        raise InputError(
            f"{path}: {totals[1]} genuine and {totals[0]} impostor pairs without folds; the protocol has ten, which need ten "
            "of each or more"
        )
    seen, folds = [0, 0], []
    for kind in same:
        folds.append(FOLDS * seen[kind] // totals[kind])
        seen[kind] += 1
    return folds


def find_images(
    names: Iterable[str], rows_of: Callable[[Iterable[str]], dict[str, int]], suffixes: Iterable[str]
) -> dict[str, int]:
    """Find the images that a list names among those of a dataset.

    A name may be an image's id or its path, with a suffix or without, in any Unicode normal form, with backslashes, and
    below the same folder above the source for all names: the shortest beginning of the paths is left out that finds most.

    Args:
        names: The names, as listed.
        rows_of: Gives the manifest's rows of those ids that are there.
        suffixes: The suffixes of images, in lower case, each with its dot.

    Returns:
        The row of each name that was found.
    """
    endings = tuple(suffixes)
    spelled = {name: _spellings(name, endings) for name in names}
    rows = rows_of({key for levels in spelled.values() for keys in levels for key in keys})
    best: dict[str, int] = {}
    for level in range(max((len(levels) for levels in spelled.values()), default=0)):
        found = {
            name: row
            for name, levels in spelled.items()
            if level < len(levels)
            and (row := next((rows[key] for key in levels[level] if key in rows), None)) is not None
        }
        if len(found) > len(best):
            best = found
    return best


def stem(name: str, suffixes: Iterable[str]) -> str:
    """A name in NFC with slashes, and without the suffix of an image."""
    path = _normal(name)
    return path.rpartition(".")[0] if path.lower().endswith(tuple(suffixes)) else path


def _normal(name: str) -> str:
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def _spellings(name: str, suffixes: tuple[str, ...]) -> list[list[str]]:
    """The ids that a listed name may mean: per number of folders left out at its beginning, the likeliest first."""
    parts = _normal(name).split("/")
    levels = []
    for level in range(len(parts)):
        path = "/".join(parts[level:])
        keys = [path]
        if path.lower().endswith(suffixes):
            keys.append(stem(path, suffixes))
        if level == len(parts) - 1:  # the file's name alone: the person is what stands before its number
            keys += [f"{person}/{key}" for key in keys if (person := key.rpartition("_")[0])]
        levels.append(keys)
    return levels
