"""Progress lines of the demo, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = 5


class Progress:
    """Print lines with the seconds since the demo began; `seconds` holds the duration of each stage by its name."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._stage = 0
        self.seconds: dict[str, float] = {}

    def elapsed(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._started

    def __call__(self, text: str) -> None:
        """Print one line."""
        print(f"[{self.elapsed():6.1f} s] {text}", file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """Print one line below the current stage's title."""
        self(f"    {text}")

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Print a numbered title and measure the block."""
        self._stage += 1
        self(f"{self._stage}/{STAGES} {title}")
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - started
