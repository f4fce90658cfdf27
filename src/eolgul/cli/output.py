"""Print a command's facts and progress, and name the extra that a command needs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from tqdm import tqdm

from eolgul.config import Progress
from eolgul.errors import InputError, printable


def say(facts: dict[str, Any]) -> None:
    """Print facts on stdout as one JSON line, with an escape for each character that a terminal obeys or does not show."""
    text = json.dumps(facts, ensure_ascii=False)
    if not text.isprintable():
        text = "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)
    print(text, flush=True)


@contextmanager
def bar(what: str, unit: str = "img") -> Iterator[Progress]:
    """Show a progress bar on stderr when that is a terminal; yields the function that moves it."""
    with tqdm(desc=what, unit=unit, file=sys.stderr, disable=not sys.stderr.isatty()) as shown:

        def move(done: int, total: int | None) -> None:
            if shown.total is None and total is not None:  # work of an earlier run is done, but not at this run's speed
                shown.total = total
                shown.initial = shown.n = done
            shown.update(done - shown.n)

        yield move


def print_line(text: str) -> None:
    """Print a line of progress on stderr."""
    print(printable(text), file=sys.stderr, flush=True)


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn a missing package of an optional extra into an InputError that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (sentence := missing(error, (name,))) is None:
            raise
        raise InputError(sentence) from error


def missing(error: ModuleNotFoundError, extras: Collection[str] = ()) -> str | None:
    """One sentence about a package that is not installed; None if it is not another project's.

    Args:
        error: What the import raised.
        extras: The extras that have the package. Default: those that name it in this package's requirements.
    """
    if error.name is None or error.name.partition(".")[0] == "eolgul":
        return None
    lines = (line.partition(";") for line in metadata.requires("eolgul") or ())
    named = {mark.rpartition("==")[2].strip(" '\"") for name, _, mark in lines if error.name in re.split(r"\W", name)}
    some = " or ".join(f"pip install 'eolgul[{name}]'" for name in extras or sorted(named - {""}))
    return f"this command needs the package {error.name!r}" + (f": {some}" if some else "")
