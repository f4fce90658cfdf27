"""An end to a conversation with another machine, whatever that machine does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class LateError(Exception):
    """The work has not ended in time."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """The result of `work`, which has a thread of its own.

    Neither a name that is not resolved nor a server that sends a byte now and then is bounded by the time-outs of sockets. A
    thread that is late is left behind; it ends with the process.

    Raises:
        LateError: It has not ended.
        BaseException: What it raised.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise LateError
    if errors:
        raise errors[0]
    return results[0]
