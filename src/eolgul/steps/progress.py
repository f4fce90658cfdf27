"""A line a minute about a long step where there is no terminal: a pod's log is all that its user sees."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

SECONDS = 60.0


class MinuteLines:
    """A `Progress` that prints images done, images per second and the time left, at most once in `seconds`."""

    def __init__(self, what: str, *, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        """`what` begins every line; `clock` is for tests."""
        self._what, self._seconds, self._clock = what, seconds, clock
        self._begun: tuple[float, int] | None = None  # time and images done at the first call: a resumed step has some
        self._said = 0.0

    def __call__(self, done: int, total: int | None) -> None:
        """Take the images done so far and in all; None while that is unknown."""
        now = self._clock()
        if self._begun is None:
            self._begun, self._said = (now, done), now
            return
        if now - self._said < self._seconds and done != total:
            return
        self._said = now
        begun, before = self._begun
        rate = (done - before) / max(now - begun, 1e-9)
        line = f"{self._what}: {done:,} images" if total is None else f"{self._what}: {done:,} of {total:,} images"
        line += f", {rate:.1f} a second"
        if total is not None and rate > 0 and done < total:
            line += f", {(total - done) / rate / 60:.0f} min left"
        print(line, file=sys.stderr, flush=True)
