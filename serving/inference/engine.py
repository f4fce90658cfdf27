"""Admission control and a fixed pool of inference threads.

A thread takes its share of the waiting images (at most `max_batch`) and runs the networks on them together. It never waits
for a batch to fill: the two images of a single request go to two threads, and under load the images share the cost of each
call.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from eolgul.errors import InputError
from eolgul.serving import metrics
from eolgul.serving.inference.model import Analysis, Detection, ServedModel
from eolgul.serving.problems import RejectionError

Timed = tuple[Analysis, dict[str, float]]
Work = Callable[[ServedModel, bytes], tuple[Any, dict[str, float]]]


@dataclass(frozen=True, slots=True)
class _Job:
    """One image for one model; the future gets the result of `work`, or of `ServedModel.analyse` without it."""

    model: ServedModel
    data: bytes
    work: Work | None
    future: Future[tuple[Any, dict[str, float]]]


class Engine:
    """`concurrency` threads with one queue, shared by all requests of the process; `close` ends the threads.

    `admitted` limits the number of requests; each may bring several images, whose number its endpoint limits.
    """

    def __init__(self, *, concurrency: int, waiting: int, max_batch: int) -> None:
        self._limit, self._max_batch = concurrency + waiting, max_batch
        self._inside = 0
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"eolgul-engine-{number}", daemon=True)
            for number in range(concurrency)
        ]
        for thread in self._threads:
            thread.start()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Admit a request before its body is read, so that refused requests cost neither memory nor time.

        Raises:
            RejectionError: `busy` if `concurrency` + `waiting` requests are admitted already.
        """
        if self._inside >= self._limit:
            raise RejectionError("too many requests are waiting; try again in a moment", "busy")
        self._inside += 1
        metrics.INSIDE.set(self._inside)
        try:
            yield
        finally:
            self._inside -= 1
            metrics.INSIDE.set(self._inside)

    async def analyse(self, model: ServedModel, data: bytes) -> Timed:
        """Run `ServedModel.analyse` in a thread; if cancelled before a thread takes the image, it never runs."""
        return await self._submit(model, data)

    async def analyse_faces(self, model: ServedModel, data: bytes) -> tuple[tuple[Analysis, ...], dict[str, float]]:
        """Run `ServedModel.analyse_faces` in a thread."""
        return await self._submit(model, data, ServedModel.analyse_faces)

    async def detect(self, model: ServedModel, data: bytes) -> tuple[Detection, dict[str, float]]:
        """Run `ServedModel.detect` in a thread."""
        return await self._submit(model, data, ServedModel.detect)

    def close(self) -> None:
        """End the threads after the queued images."""
        for _ in self._threads:
            self._jobs.put(None)

    async def _submit(self, model: ServedModel, data: bytes, work: Work | None = None) -> tuple[Any, dict[str, float]]:
        job = _Job(model, data, work, Future())
        self._jobs.put(job)
        metrics.QUEUE.set(self._jobs.qsize())
        return await asyncio.wrap_future(job.future)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            closing = False
            share = 1 + self._jobs.qsize() // len(self._threads)  # leave the other threads their share
            while len(batch) < min(self._max_batch, share) and not closing:
                try:
                    following = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    closing = True
                else:
                    batch.append(following)
            metrics.QUEUE.set(self._jobs.qsize())
            self._run([waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()])
            if closing:
                return

    def _run(self, batch: list[_Job]) -> None:
        groups: dict[tuple[int, Work | None], list[_Job]] = {}
        for job in batch:  # while models are swapped, a batch may hold jobs of both
            groups.setdefault((id(job.model), job.work), []).append(job)
        for (_, work), jobs in groups.items():
            try:
                if work is not None:
                    for job in jobs:
                        _finish(job, work)
                else:
                    metrics.BATCH.observe(len(jobs))
                    results = jobs[0].model.analyse_many([job.data for job in jobs])
                    for job, (result, timings) in zip(jobs, results, strict=True):
                        if isinstance(result, InputError):
                            job.future.set_exception(result)
                        else:
                            job.future.set_result((result, timings))
            except BaseException as error:  # an unexpected error of one image must not fail the others of its batch
                if len(jobs) > 1:
                    for job in jobs:
                        if not job.future.done():
                            _finish(job, ServedModel.analyse)
                elif not jobs[0].future.done():
                    jobs[0].future.set_exception(error)


def _finish(job: _Job, work: Work) -> None:
    try:
        job.future.set_result(work(job.model, job.data))
    except BaseException as error:
        job.future.set_exception(error)
