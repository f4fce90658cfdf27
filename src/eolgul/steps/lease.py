"""A lease on one piece of work: of several tasks that want the same result, one makes it and the others wait for it.

The holder renews a small object. One that was killed no longer does, and then the next one takes the lease over. All
clocks are the waiting process's own. Should two hold one lease after all (a network that is cut for minutes), both make
the same result, and the first to finish counts (`eolgul.steps.store`).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from eolgul import storage
from eolgul.errors import InputError

_logger = logging.getLogger("eolgul.steps")
_SAY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a lease is renewed, and how long one that is not renewed is left alone, in seconds."""

    beat: float = 15.0
    stale: float = 120.0
    own: float = 45.0  # one of the same run: its task was killed and is being repeated


@contextmanager
def held(
    place: str, what: str, run: str, finished: Callable[[], bool], patience: Patience = Patience()
) -> Iterator[bool]:
    """Hold the lease at `place` for the block; yield False, without it, when the result is there before that.

    Args:
        place: Of the lease, a path or `s3://`.
        what: What is made, for the line that says what is waited for.
        run: The id of this run, by which a repeated task knows the lease of its own earlier attempt; "" for none.
        finished: Whether the result is there.
        patience: How long to wait for what.
    """
    owner = uuid.uuid4().hex
    if not _acquire(place, what, run, owner, finished, patience):
        yield False
        return
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(place, owner, run, patience.beat, stop), daemon=True)
    beating.start()
    try:
        yield True
    finally:
        stop.set()
        beating.join(timeout=patience.beat)
        if _read(place).get("owner") == owner:
            storage.remove_object(place)


def _acquire(place: str, what: str, run: str, owner: str, finished: Callable[[], bool], patience: Patience) -> bool:
    """Get the lease; False when the result is there first. The wait ends with its holder, who is alive or gets replaced."""
    seen: dict[str, Any] = {}
    since = said = time.monotonic()
    said -= _SAY_SECONDS
    while True:
        there = _parse(storage.put_if_absent(place, _entry(owner, run, 0)))
        if there.get("owner") == owner:
            return True
        if finished():
            return False
        now = time.monotonic()
        gone = there.get("host") == socket.gethostname() and not _is_alive(there.get("process"))
        if there != seen and not gone:
            seen, since = there, now
        elif gone or now - since > (patience.own if run and there.get("run") == run else patience.stale):
            _logger.warning("%s: its maker (%s) has gone; going on with it", what, _who(there))
            storage.write_bytes(place, _entry(owner, run, 0))
            time.sleep(min(1.0, patience.beat / 4))  # of several that take it over now, the last one to write has it
            continue
        if now - said > _SAY_SECONDS:
            print(f"waiting for {what}, which {_who(there)} is making", file=sys.stderr, flush=True)
            said = now
        time.sleep(min(5.0, patience.beat / 4))


def _is_alive(process: object) -> bool:
    """Whether a process of this machine runs."""
    if not isinstance(process, int):
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _beat(place: str, owner: str, run: str, seconds: float, stop: threading.Event) -> None:
    number = 0
    while not stop.wait(seconds):
        try:
            if _read(place).get("owner") != owner:  # taken over
                return
            number += 1
            storage.write_bytes(place, _entry(owner, run, number))
        except (InputError, OSError) as error:  # the next beat may get through
            _logger.warning("%s: the lease is not renewed: %s", place, error)


def _entry(owner: str, run: str, beat: int) -> bytes:
    return json.dumps(
        {"owner": owner, "run": run, "host": socket.gethostname(), "process": os.getpid(), "beat": beat}
    ).encode()


def _read(place: str) -> dict[str, Any]:
    return _parse(storage.read_bytes(place) or b"")


def _parse(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
        return found if isinstance(found, dict) else {}
    except ValueError:
        return {}


def _who(entry: dict[str, Any]) -> str:
    return f"run {entry.get('run') or '?'} on {entry.get('host', '?')}"
