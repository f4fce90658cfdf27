"""A pool of worker processes: jobs go out in order, results come back in order, and no process is left behind."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import signal
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from eolgul.errors import InputError

T = TypeVar("T")
_AHEAD = 3  # jobs per worker that are given out before their results are wanted
_POLL = 0.2  # seconds between two looks at progress and failures
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_COUNT = struct.Struct("<q")
_QUOTA, _PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"  # of cgroup v1

_reporter: ContextVar[Callable[[int], None] | None] = ContextVar("reporter", default=None)  # of the task that runs


def map_in_order(
    task: Callable[[Any], T], jobs: Iterable[Any], workers: int, progress: Callable[[int], None] | None = None
) -> Iterator[T]:
    """Yield `task(job)` for each job, in the order of the jobs.

    When the caller stops, is interrupted or killed, or when a task fails, the worker processes end at once; what they
    have not finished is lost.

    Args:
        task: a function of a module, so that another process can import it. It may call `report`.
        jobs: arguments that can be pickled; a few are read ahead.
        workers: processes. With 1 everything runs in this process.
        progress: called here with the counts that the tasks report.

    Raises:
        InputError: when a worker process is killed; whatever a task raises is raised as it is.
    """
    if workers == 1:
        yield from _in_this_process(task, jobs, progress)
        return
    with _one_thread_each():
        context = multiprocessing.get_context("spawn")
        # Workers end when the other end of this pipe is closed, by us or with us. A multiprocessing.Event would not do:
        # setting it waits for everyone who waits for it, and a signal to the process group may have ended them already.
        # A shared counter would not do either: a worker that is killed while it holds the lock keeps it for ever.
        alive, keep_alive = context.Pipe(duplex=False)
        counts, count = context.Pipe(duplex=False)
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(alive, count))

        def drain() -> None:
            while counts.poll():
                (number,) = _COUNT.unpack(counts.recv_bytes())
                if progress:
                    progress(number)

        try:
            rest = iter(jobs)
            # All jobs at once would hold all results in memory when the caller is slower than the workers.
            waiting = deque(pool.submit(task, job) for _, job in zip(range(_AHEAD * workers), rest, strict=False))
            while waiting:
                result = _first_result(waiting, drain)
                waiting.extend(pool.submit(task, job) for _, job in zip(range(1), rest, strict=False))
                yield result
            drain()
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process was killed (out of memory?); run it again with fewer workers to go on"
            ) from error
        except BaseException:
            keep_alive.close()  # do not wait for unfinished work: it is discarded
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for end in (alive, keep_alive, counts, count):
                end.close()


def report(count: int) -> None:
    """Report progress from a task to the `progress` of `map_in_order`."""
    reporter = _reporter.get()
    if reporter:
        reporter(count)


def end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when the thread that started it ends, even by SIGKILL.

    For processes in sessions of their own, such as BentoML's workers, which no signal to the parent's group reaches. It
    works on Linux; elsewhere nothing happens and the parent must stop its children itself.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _in_this_process(
    task: Callable[[Any], T], jobs: Iterable[Any], progress: Callable[[int], None] | None
) -> Iterator[T]:
    for job in jobs:
        token = _reporter.set(progress)
        try:
            result = task(job)
        finally:
            _reporter.reset(token)
        yield result


def _first_result(waiting: deque[Future[T]], drain: Callable[[], None]) -> T:
    """Take the result of the first job; a failure of any other ends the wait."""
    first = waiting.popleft()
    while True:
        try:
            result = first.result(timeout=_POLL)
        except TimeoutError:
            if first.done():  # the task's own
                raise
        else:
            drain()
            return result
        drain()
        for other in waiting:
            if other.done():
                other.result()


def _start(alive: Connection, counts: Connection) -> None:
    """Set up a worker: the parent decides about interrupts, and this process ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A write of so few bytes to a pipe is atomic (POSIX), so the workers can share it without a lock.
    _reporter.set(lambda count: counts.send_bytes(_COUNT.pack(count)))

    def leave() -> None:
        alive.poll(None)
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Start workers with one BLAS thread each: their number is the parallelism, and thread counts change rounding."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def usable_cpus(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """The CPUs that this process may use: those of its affinity, and no more than its container's quota, rounded up."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        if (cgroups / "cpu.max").is_file():
            quota, period = (cgroups / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroups / "cpu" / name).read_text() for name in (_QUOTA, _PERIOD))
        if float(quota) > 0:
            cpus = min(cpus, math.ceil(float(quota) / float(period)))
    except (OSError, ValueError, ZeroDivisionError):  # no container, or no quota ("max", -1)
        pass
    return max(1, cpus)
