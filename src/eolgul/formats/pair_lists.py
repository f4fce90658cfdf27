"""Pair lists of benchmarks: LFW's `pairs.txt`, folds of matched and mismatched pairs of `<Name>/<Name>_0001.jpg`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from eolgul.errors import InputError

_MOST = 1_000_000


class Pair(NamedTuple):
    """Two images by their ids as extraction builds them, whether they show one person, and the fold."""

    left: str
    right: str
    same: bool
    fold: int


def image_key(name: str, number: int) -> str:
    """The image id of a person's n-th image, as extraction builds it."""
    return f"{name}/{name}_{number:04}"


def read_text(path: Path) -> str:
    """Read a text file; InputError if it cannot be read or is not UTF-8 (naming the byte)."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} at byte {error.start}: expected text in UTF-8") from error


def read_pairs(path: Path) -> list[Pair]:
    """Read `pairs.txt`: `folds<TAB>pairs-per-class`, then per fold the matched and then the mismatched lines.

    Raises:
        InputError: A line does not fit; the message names it.
    """
    first, *rest = read_text(path).splitlines() or [""]
    lines = [(number, line) for number, line in enumerate(rest, 2) if line.strip()]
    try:
        folds, each = (int(value) for value in first.split())
        if not 1 <= folds <= _MOST or not 1 <= each <= _MOST:  # an endless number would make the message endless
            raise ValueError(first)
    except ValueError as error:
        raise InputError(f"{path} line 1: expected 'folds<TAB>pairs per class'") from error
    if len(lines) != 2 * folds * each:
        raise InputError(f"{path}: {len(lines)} pair lines, expected {2 * folds * each} ({folds} folds of 2 x {each})")
    pairs = []
    for index, (number, line) in enumerate(lines):
        fold, within = divmod(index, 2 * each)
        words = line.split()
        try:
            if within < each:
                name, first, second = words
                left, right = image_key(name, int(first)), image_key(name, int(second))
            else:
                name, first, other, second = words
                left, right = image_key(name, int(first)), image_key(other, int(second))
        except ValueError as error:
            kind = "'name n1 n2'" if within < each else "'name1 n1 name2 n2'"
            raise InputError(f"{path} line {number}: {line[:60]!r}, expected {kind}") from error
        pairs.append(Pair(left, right, within < each, fold))
    return pairs
