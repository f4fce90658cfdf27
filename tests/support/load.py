"""Clients that send requests while something fails, and the check of their answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

CLIENTS = 4


class Answer(NamedTuple):
    """One answer: index of the pair, status (0: no answer came), and its content (similarity 9: it has none)."""

    pair: int
    status: int
    similarity: float
    cached: tuple[bool, bool]
    model: str


@dataclass
class Crowd:
    """Clients that verify the same pairs repeatedly. `answers` are in the order of arrival."""

    url: str
    pairs: Sequence[tuple[bytes, bytes]]
    answers: list[Answer] = field(default_factory=list)
    slowest_s: float = 0.0
    _ended: threading.Event = field(default_factory=threading.Event)

    def more(self, count: int) -> list[Answer]:
        """Wait for the next `count` answers, without those that were under way."""
        start = len(self.answers) + CLIENTS
        until(lambda: len(self.answers) >= start + count, 60)
        return self.answers[start : start + count]

    def hit_again(self) -> None:
        """Wait until the cache has all images."""
        until(lambda: all(all(one.cached) for one in self.more(10)), 20)

    @contextmanager
    def asking(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()

    def _ask(self, turn: int) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self._ended.is_set():
                number, start = turn % len(self.pairs), time.perf_counter()
                left, right = self.pairs[number]
                try:
                    answer = client.post("/v1/verify", files={"image1": ("x", left), "image2": ("y", right)})
                    status, body = answer.status_code, answer.json()
                except (httpx.HTTPError, ValueError):
                    status, body = 0, {}
                self.slowest_s = max(self.slowest_s, time.perf_counter() - start)
                left_cached, right_cached = body.get("cached", (False, False))
                similarity, model = body.get("similarity", 9.0), body.get("model", "")
                self.answers.append(Answer(number, status, similarity, (left_cached, right_cached), model))
                turn += 1


def until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def check(answers: Sequence[Answer], expected: Sequence[float]) -> None:
    """Check that every request was answered with the similarity of the networks; `expected`: that of each pair."""
    assert {one.status for one in answers} == {200}
    for one in answers:
        assert one.similarity == pytest.approx(expected[one.pair], abs=1e-5)


def lines(log: Path, start: int, *words: str) -> list[str]:
    """Lines of the service's log after byte `start` that contain all `words`."""
    with log.open("rb") as file:
        file.seek(start)
        log_lines = file.read().decode().splitlines()
    return [line for line in log_lines if all(word in line for word in words)]
