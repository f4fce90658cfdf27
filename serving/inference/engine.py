"""Who may come in, and who works: a bounded crowd of requests in front of a few threads that run the networks.

Images that wait are given to the networks together, a thread's share of them at once (at most `max_batch`): nothing
waits for a batch to fill, a lone request's two images go to two threads, and a crowd shares the cost of each call.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

from eolgul.errors import InputError
from eolgul.serving import metrics
from eolgul.serving.inference.model import Analysis, Detection, ServedModel
from eolgul.serving.problems import RejectionError

Timed = tuple[Analysis, dict[str, float]]


@dataclass(frozen=True, slots=True)
class _Job:
    """One image for one model; the future gives what `ServedModel.analyse` or, with `every_face`, `detect` gives."""

    model: ServedModel
    data: bytes
    every_face: bool
    future: Future[tuple[Analysis | Detection, dict[str, float]]]


class Engine:
    """`concurrency` threads over one queue. Shared by all requests of the process; `close` ends the threads.

    `admitted` bounds the requests inside; each may bring several images, whose number its endpoint bounds.
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
        """Admit a request before its body is read, so that a crowd costs neither memory nor time. RejectionError `busy`."""
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
        """What `ServedModel.analyse` gives. Cancelled (deadline, client gone) before its turn, it is not worked on."""
        analysis, timings = await self._submit(model, data, every_face=False)
        assert isinstance(analysis, Analysis)
        return analysis, timings

    async def detect(self, model: ServedModel, data: bytes) -> tuple[Detection, dict[str, float]]:
        """What `ServedModel.detect` gives."""
        detection, timings = await self._submit(model, data, every_face=True)
        assert isinstance(detection, Detection)
        return detection, timings

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)

    async def _submit(
        self, model: ServedModel, data: bytes, *, every_face: bool
    ) -> tuple[Analysis | Detection, dict[str, float]]:
        job = _Job(model, data, every_face, Future())
        self._jobs.put(job)
        metrics.QUEUE.set(self._jobs.qsize())
        return await asyncio.wrap_future(job.future)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            ended = False
            share = 1 + self._jobs.qsize() // len(self._threads)  # the other threads want their part
            while len(batch) < min(self._max_batch, share) and not ended:
                try:
                    following = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    ended = True
                else:
                    batch.append(following)
            metrics.QUEUE.set(self._jobs.qsize())
            self._run([one for one in batch if one.future.set_running_or_notify_cancel()])
            if ended:
                return

    def _run(self, batch: list[_Job]) -> None:
        alike: dict[tuple[int, bool], list[_Job]] = {}
        for job in batch:  # while models are swapped, a batch may hold jobs for both
            alike.setdefault((id(job.model), job.every_face), []).append(job)
        for jobs in alike.values():
            try:
                if jobs[0].every_face:
                    for job in jobs:
                        _answer(job, job.model.detect)
                else:
                    metrics.BATCH.observe(len(jobs))
                    results = jobs[0].model.analyse_many([job.data for job in jobs])
                    for job, (result, timings) in zip(jobs, results, strict=True):
                        if isinstance(result, InputError):
                            job.future.set_exception(result)
                        else:
                            job.future.set_result((result, timings))
            except BaseException as error:  # one image's surprise must not leave the others of its batch unanswered
                if len(jobs) > 1:
                    for job in jobs:
                        if not job.future.done():
                            _answer(job, job.model.analyse)
                elif not jobs[0].future.done():
                    jobs[0].future.set_exception(error)


def _answer(job: _Job, work: Callable[[bytes], tuple[Analysis | Detection, dict[str, float]]]) -> None:
    try:
        job.future.set_result(work(job.data))
    except BaseException as error:
        job.future.set_exception(error)
