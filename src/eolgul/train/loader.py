"""The worker processes that prepare batches, and what ends a run when one of their batches is lost.

Workers hand tensors over in shared memory, /dev/shm on Linux. PyTorch moves them there in a background thread of the
worker; if that fails, the error is only printed, the batch never arrives and the training process waits for ever. So
`check_shared_memory` compares the need with the free space before the start, `share` moves the tensors where an error
reaches the training process, and `watched` gives up when no worker makes progress.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from eolgul.errors import InputError

STALL_SECONDS = 40.0  # a run whose batch is lost ends within a minute, its start included
_AHEAD = 3  # batches that each worker prepares while the network computes
_POLL = 5.0  # seconds between two looks at the workers' progress
_SHARED = Path("/dev/shm")
_REMEDY = "use fewer workers or a smaller batch_size, enlarge /dev/shm (in a pod: an emptyDir of medium Memory), or set workers=0"
_ENDED = re.compile(
    r"DataLoader worker \((pid[^)]*\)? [\d, ]+)\) (?:is killed by signal: ([\w ]+)|exited unexpectedly)"
)


class Progress:
    """One counter per worker of the images it has read; workers count, the training process sums."""

    def __init__(self, workers: int) -> None:
        self._counts: Any = multiprocessing.RawArray("Q", max(1, workers))

    def count(self) -> None:
        """Count an image; called in a worker, or in the training process when there are no workers."""
        info = get_worker_info()
        self._counts[0 if info is None else info.id] += 1

    def total(self) -> int:
        """Images read by all workers so far."""
        return sum(self._counts)


def check_shared_memory(batch_bytes: int, workers: int, processes: int = 1) -> None:
    """Compare the shared memory that the batches of `processes` training processes need with what is free.

    Args:
        batch_bytes: Size of the batch of one training process.
        workers: Worker processes per training process; 0 needs no shared memory.
        processes: Training processes on this machine.

    Raises:
        InputError: The free space of /dev/shm is too small.
    """
    if not workers or not _SHARED.is_dir():
        return
    room = os.statvfs(_SHARED)
    free = room.f_bavail * room.f_frsize
    # While a worker fills the next batch, the loop still holds the batch in use and takes over another.
    need = batch_bytes * (workers * _AHEAD + 2) * processes
    if room.f_blocks and need > free:  # a file system without a limit states no blocks
        raise InputError(
            f"{_SHARED}: {free / 1e6:.1f} MB free, but {workers} workers x {_AHEAD} batches of {batch_bytes / 1e6:.1f} MB"
            f"{f' in each of {processes} processes' if processes > 1 else ''} need {need / 1e6:.1f} MB; {_REMEDY}"
        )


def share(tensors: Iterable[Tensor]) -> None:
    """Move a worker's tensors to shared memory; outside a worker they stay where they are.

    Raises:
        InputError: The shared memory is full.
    """
    if get_worker_info() is None:
        return
    try:
        for tensor in tensors:
            tensor.share_memory_()  # type: ignore[no-untyped-call]  # torch has no types here
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{_SHARED}: a worker cannot hand over a batch ({reason}); {_REMEDY}") from error


def watched(
    source: Dataset[Any], progress: Progress, *, workers: int, stall_seconds: float, pin: bool
) -> Iterator[Any]:
    """The items of `source` in order, prepared ahead by worker processes that are watched.

    A slow disk is no failure: as long as any worker reads images, the loop waits.

    Args:
        source: Gives one whole batch per item and counts the images it reads with `progress`.
        progress: The counters of this loader's workers.
        workers: Worker processes; 0 reads in this process, unwatched.
        stall_seconds: How long to wait for a batch while no worker reads an image.
        pin: Copy batches to page-locked memory, from which a GPU reads faster.

    Raises:
        InputError: A worker ended, its data cannot be used, or no worker reads any more.
    """
    poll = min(_POLL, stall_seconds)
    loader: DataLoader[Any] = DataLoader(
        source,
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        worker_init_fn=functools.partial(_start, os.getpid(), getattr(source, "start_worker", None)),
        pin_memory=pin,
        timeout=poll if workers else 0,
    )
    batches: Any = iter(loader)
    failed = False
    try:
        while (batch := _next(batches, progress, workers, poll, stall_seconds)) is not None:
            yield batch
    except InputError:
        failed = True
        raise
    finally:
        if workers:
            _end(batches, kill=failed)


def _start(training: int, prepare: Callable[[int], None] | None, worker: int) -> None:
    """Prepare a worker, which ends where its training process was killed meanwhile.

    PyTorch's worker ends with its parent, too, but takes for it whatever process that is once it is prepared: one that was
    killed before would leave a worker behind for ever, with the run's files and pipes open.
    """
    if prepare is not None:
        prepare(worker)
    if os.getppid() != training:
        os._exit(1)


def _next(batches: Any, progress: Progress, workers: int, poll: float, stall_seconds: float) -> Any:
    """The next batch, None after the last; waits as long as the workers make progress."""
    quiet, seen = 0.0, progress.total()
    while True:
        try:
            return next(batches)
        except StopIteration:
            return None
        except InputError as error:  # PyTorch puts the worker's whole traceback before the sentence
            raise InputError(str(error).rpartition("InputError: ")[2].strip()) from error
        except (ConnectionError, EOFError, FileNotFoundError) as error:  # it ended between a batch and its memory
            raise _lost_worker("a worker that prepares training batches ended while it handed one over") from error
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out"):
                raise ended_worker(error) or error from None
        # Waits are counted, not the clock: a process that was suspended has not waited.
        quiet, seen = quiet + poll if progress.total() == seen else 0.0, progress.total()
        if quiet >= stall_seconds:
            raise InputError(
                f"no training batch arrived and none of the {workers} workers read an image for {quiet:g} s: a batch was "
                f"lost or a read hangs; check the disk and the messages above, {_REMEDY}, or raise stall_seconds"
            )


def ended_worker(error: RuntimeError) -> InputError | None:
    """The sentence for PyTorch's error about a worker that ended, which may be raised anywhere in the main thread.

    None for any other error.
    """
    match = _ENDED.match(str(error))
    if match is None:
        return None
    worker, signal = match.groups()
    if signal and signal.startswith("Bus"):
        return InputError(f"{_SHARED}: full, it ended a worker ({worker}); {_REMEDY}")
    how = f"was killed by a signal ({signal})" if signal else "ended"
    return _lost_worker(f"a worker that prepares training batches ({worker}) {how}")


def _lost_worker(what: str) -> InputError:
    return InputError(
        f"{what}, most likely because memory ran out; use fewer workers, "
        "and run the same command again to go on from the last checkpoint"
    )


def _end(batches: Any, *, kill: bool) -> None:
    """End the workers now; `kill` also those that hang in a read, which a gentler signal would not interrupt.

    PyTorch's signal handler raises RuntimeError for the first worker that is killed, at whatever line is running then.
    """
    for _ in range(2):
        with contextlib.suppress(RuntimeError):
            for worker in batches._workers if kill else ():
                worker.kill()
            batches._shutdown_workers()
