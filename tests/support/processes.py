"""A guard that lets no test start a process unless it says so: `make test-fast` stays fast, and a marker cannot be forgotten."""

from __future__ import annotations

import multiprocessing.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from _pytest.outcomes import Failed

from eolgul import workers

EVENTS = frozenset(
    {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec", "pty.spawn", "os.spawn"}
)

LIBRARIES = "/sbin/ldconfig"  # how ctypes finds a shared library, as torch does when it is imported


class ProcessStartedError(Failed):
    """A test without the marker `process` starts one. Not an `Exception`, so that no code under test takes it for its own."""


class _Guard:
    """What is forbidden now, in this process. An audit hook cannot be removed, so there is one for the whole session."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.started: list[str] | None = None

    def check(self, event: str, what: object) -> None:
        if self.started is None or os.getpid() != self.process:
            return
        self.started.append(f"{event} {what!r}"[:200])
        raise ProcessStartedError(self.started[-1])

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and arguments[:1] != (LIBRARIES,):
            self.check(event, arguments[0] if arguments else "")


_guard = _Guard()


def install() -> None:
    """Watch this process from now on, before the package is imported.

    `multiprocessing` starts its processes past the audit events, hence the second watch. Where processes are forbidden, the
    pool runs its jobs in this process: results do not depend on the number of workers, as the tests of each step prove.
    """
    sys.addaudithook(_guard.hook)
    spawn = multiprocessing.util.spawnv_passfds

    def watched(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        _guard.check("multiprocessing", args[-1])
        return spawn(path, args, passfds)

    multiprocessing.util.spawnv_passfds = watched
    pool = workers.map_in_order

    def map_in_order(task: Any, jobs: Any, workers: int, progress: Any = None) -> Iterator[Any]:
        return pool(task, jobs, workers if _guard.started is None else 1, progress)

    workers.map_in_order = map_in_order


@contextmanager
def forbidden() -> Iterator[list[str]]:
    """Every process that is started within is refused, and listed, since the code under test may swallow the refusal."""
    before, _guard.started = _guard.started, []
    try:
        yield _guard.started
    finally:
        _guard.started = before


def refused() -> list[str]:
    """What was refused since the last call, within the innermost `forbidden`."""
    found = list(_guard.started or ())
    if _guard.started:
        _guard.started.clear()
    return found
