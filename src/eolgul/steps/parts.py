"""Finished parts of a data set that is being made, kept in the store as they become whole.

A pod's disk goes with the pod. Another one that is to make the same data set gets the parts first, and the step goes on
from them as it does from those of a killed run on one machine (`eolgul.dataset.build`).
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from eolgul import storage
from eolgul.dataset.parts import finished_parts, job_file, work_of
from eolgul.errors import InputError
from eolgul.files import write_atomic
from eolgul.storage.s3 import THREADS

_logger = logging.getLogger("eolgul.steps")


@contextmanager
def kept(out: Path, place: str, seconds: float = 15.0) -> Iterator[None]:
    """Fetch finished parts of the data set `out` from `place`, and keep new ones there until the block ends well.

    Args:
        out: Where the step writes the data set, on the local disk.
        place: A prefix for the parts of this very job: same step, options and inputs.
        seconds: Between two looks for new parts.
    """
    sent = _restore(out, place)
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(seconds):
            _send(out, place, sent)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    except BaseException:
        stop.set()
        watching.join()
        _send(out, place, sent)
        raise
    stop.set()
    watching.join()
    storage.remove_below(place)


def _restore(out: Path, place: str) -> set[str]:
    """Bring the parts that are whole to the work folder, unless something is there; return their names."""
    work = work_of(out)
    job = storage.read_bytes(storage.join(place, "job"))
    if job is None or out.exists():  # no part is there, or the whole is on this disk and only its publication failed
        return set()
    if job_file(work).exists():  # of this machine: it has these parts and perhaps more
        return set() if job_file(work).read_bytes() != job else set(finished_parts(work))
    names = [name for name in storage.list_names(storage.join(place, "whole")) if name.endswith(".json")]

    def get(name: str) -> str | None:
        listed = storage.read_bytes(storage.join(place, "whole", name))
        try:
            files = json.loads(listed or b"")["files"]
            for file in files:
                data = storage.read_bytes(storage.join(place, "files", file))
                if data is None:
                    return None
                if ".." in Path(file).parts or Path(file).is_absolute():
                    return None
                if not file.endswith(".json"):
                    write_atomic(work / file, data)
                else:
                    marks[name.removesuffix(".json")] = (work / file, data)
        except (ValueError, KeyError, TypeError):
            return None
        return name.removesuffix(".json")

    marks: dict[str, tuple[Path, bytes]] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        got = {name for name in pool.map(get, names) if name is not None and name in marks}
    for name in got:  # what marks a part as finished goes last
        write_atomic(*marks[name])
    if got:
        write_atomic(job_file(work), job)
        _logger.warning("%s: going on from %d finished parts", out.name, len(got))
    return got


def _send(out: Path, place: str, sent: set[str]) -> None:
    """Upload parts that are whole and were not sent yet: their files first, then what says that they are complete."""
    work = work_of(out)
    try:
        new = {name: files for name, files in finished_parts(work).items() if name not in sent}
        if not new:
            return
        storage.write_bytes(storage.join(place, "job"), job_file(work).read_bytes())
        for name, files in new.items():
            for file in files:
                storage.write_bytes(storage.join(place, "files", file), (work / file).read_bytes())
            storage.write_bytes(storage.join(place, "whole", f"{name}.json"), json.dumps({"files": files}).encode())
            sent.add(name)
    except FileNotFoundError:  # the data set became whole in this moment, and its parts are gone
        return
    except (InputError, OSError) as error:  # a part that is not kept costs time after a kill, not the result
        _logger.warning("%s: a finished part is not kept at %s: %s", out.name, place, error)
