"""What commands say: facts on stdout as one JSON line, progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


def say(facts: dict[str, Any]) -> None:
    print(json.dumps(facts, ensure_ascii=False), flush=True)


@contextmanager
def bar(what: str, unit: str = "img") -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr when that is a terminal."""
    with tqdm(desc=what, unit=unit, file=sys.stderr, disable=not sys.stderr.isatty()) as shown:

        def advance(count: int) -> None:
            shown.update(count)

        yield advance
