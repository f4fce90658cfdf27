"""Worker processes: tasks go out in order and come back in order, whatever happens leaves no process behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from eolgul.errors import InputError

T = TypeVar("T")


def work(task: Callable[[Any], T], jobs: Iterable[Any], workers: int) -> Iterator[T]:
    """Results in the order of the jobs. An interrupt, or a failing task or reader, leaves no process behind."""
    if workers == 1:
        yield from map(task, jobs)
        return
    with _one_thread_each():
        context = multiprocessing.get_context("spawn")
        # Workers leave when the other end is closed, by us or with us. An Event would not do: setting it waits for all who
        # wait, and a signal to the whole process group may have ended them already.
        here, there = context.Pipe(duplex=False)
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(here,))
        waiting: list[Future[T]] = []
        rest = iter(jobs)
        try:
            # A few jobs ahead: all at once would hold all results in memory where the reader is slower.
            waiting = [pool.submit(task, job) for _, job in zip(range(3 * workers), rest, strict=False)]
            while waiting:
                result = waiting.pop(0).result()
                waiting.extend(pool.submit(task, job) for _, job in zip(range(1), rest, strict=False))
                yield result
        except BrokenProcessPool as error:
            raise InputError("a drawing process was killed (out of memory?); try fewer workers") from error
        except BaseException:
            # Pictures in the making are of no use to anybody: do not wait for them.
            there.close()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            there.close()
            here.close()


def _start_worker(parent: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides about interrupts

    def leave() -> None:
        parent.poll(None)
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Workers start with one BLAS thread: their number is the parallelism, and thread counts would change rounding."""
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
