"""Let every component's process be a pod: an empty disk, a host name of its own, and an eviction in the middle of its work.

Python imports this module at its start where its folder is on PYTHONPATH. A component's process gets a new folder below
EOLGUL_TEST_PODS for its cache and its temporary files. If EOLGUL_TEST_KILLS names moments of its component
(`<component>:<moment>`, divided by spaces), it ends itself with SIGKILL at the first of them at which its task was not
killed before; nothing is tidied up. `events.jsonl` there gets a line for every kill, for every artifact when its making
begins and when it is whole, and for every process at its end: its CPU seconds, and those within steps. Shards are small,
finished parts kept at once and waits short, so that small data have many moments.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

_SHARD_BYTES, _PART_ROWS = 100_000, 1
_PARTS = 2  # that are kept before the process is killed
_worked: list[float] = []  # CPU seconds within the steps
_dying = threading.Lock()


def _note(**event: str) -> None:
    line = json.dumps({"component": _component, "iteration": _iteration, **event}) + "\n"
    with (_pods / "events.jsonl").open("ab") as file:
        file.write(line.encode())


def _die() -> None:
    _dying.acquire()  # for good: several threads upload, and only one of them is the killer
    _note(killed=_moment)
    os.kill(os.getpid(), signal.SIGKILL)


def _default(cls: Any, **given: Any) -> None:
    """Other defaults of a dataclass."""
    code, defaults = cls.__init__.__code__, cls.__init__.__defaults__
    names = code.co_varnames[: code.co_argcount][-len(defaults) :]
    cls.__init__.__defaults__ = tuple((dict(zip(names, defaults, strict=True)) | given).values())


def _make_everything_small() -> None:
    from eolgul.align.config import AlignConfig
    from eolgul.extract.config import ExtractConfig
    from eolgul.steps import lease, parts, store

    _default(ExtractConfig, shard_bytes=_SHARD_BYTES)
    _default(AlignConfig, part_rows=_PART_ROWS)
    _default(lease.Patience, beat=0.5, stale=20.0, own=4.0)
    parts.kept.__wrapped__.__defaults__ = (0.1,)  # type: ignore[attr-defined]
    make = store.Store._make

    def noted(self: Any, job: Any, work: Any) -> Any:
        def timed(out: str) -> Any:
            started = time.process_time()
            facts = work(out)
            _worked.append(time.process_time() - started)
            return facts

        _note(begun=f"{job.step}-{job.name}")
        made = make(self, job, timed)
        _note(whole=f"{job.step}-{job.name}")
        return made

    store.Store._make = noted  # type: ignore[method-assign,assignment]


def _after_parts() -> None:
    """Once two parts are kept in the store; the step waits for that before it begins the third."""
    from eolgul import storage
    from eolgul.dataset import build

    kept: list[str] = []
    begun: list[int] = []
    write, shard = storage.write_bytes, build.DatasetBuild.shard

    def written(uri: str, data: bytes) -> None:
        write(uri, data)
        if "/whole/" in uri:
            kept.append(uri)

    def begin(self: Any, number: int, source: str) -> Any:
        begun.append(number)
        if len(begun) > _PARTS:
            until = time.monotonic() + 60
            while len(kept) < _PARTS and time.monotonic() < until:
                time.sleep(0.02)
            _die()
        return shard(self, number, source)

    storage.write_bytes = written
    build.DatasetBuild.shard = begin  # type: ignore[method-assign]


def _after_a_file(step: str) -> None:
    """Once the first file of an artifact is published, and others are not."""
    from minio import Minio

    put = Minio.fput_object

    def sent(self: Any, **given: Any) -> Any:
        done = put(self, **given)
        if f"/artifacts/{step}/" in given["object_name"]:
            _die()
        return done

    Minio.fput_object = sent  # type: ignore[method-assign,assignment]


def _after_an_epoch() -> None:
    """Once a checkpoint behind the first epoch is in the store."""
    from eolgul import storage

    write = storage.write_bytes

    def written(uri: str, data: bytes) -> None:
        write(uri, data)
        if uri.endswith("/checkpoints.json") and '"epoch": 1' in json.dumps(json.loads(data)):
            _die()

    storage.write_bytes = written


def _before(module: str, name: str) -> None:
    """When a function is called."""
    __import__(module)
    setattr(sys.modules[module], name, lambda *_, **__: _die())


def _after_the_first_write() -> None:
    from eolgul import storage

    put = storage.put_if_absent

    def written(uri: str, data: bytes) -> bytes:
        put(uri, data)
        _die()
        return data

    storage.put_if_absent = written


_MOMENTS = {
    "write": _after_the_first_write,
    "parts": _after_parts,
    "epoch": _after_an_epoch,
    "compared": lambda: _before("eolgul.steps.tasks", "evaluate_others"),
    "published": lambda: _before("eolgul.promote.step", "point"),
    "pointed": lambda: _before("eolgul.promote.step", "remember"),
}


def _become_a_pod() -> None:
    disk = tempfile.mkdtemp(prefix=f"{_component}-", dir=_pods)
    os.environ["EOLGUL_S3_CACHE"], os.environ["TMPDIR"] = f"{disk}/cache", disk
    tempfile.tempdir = None
    name = Path(disk).name
    socket.gethostname = lambda: name


def _open_moment() -> str:
    """The first moment of this component at which this task was not killed; "" when there is none."""
    events = _pods / "events.jsonl"
    before = [json.loads(line) for line in events.read_text().splitlines()] if events.exists() else []
    killed = {
        one["killed"]
        for one in before
        if "killed" in one and (one["component"], one["iteration"]) == (_component, _iteration)
    }
    wanted = [word.partition(":") for word in os.environ.get("EOLGUL_TEST_KILLS", "").split()]
    return next((at for which, _, at in wanted if which == _component and at not in killed), "")


_words = sys.orig_argv
if "--function_to_execute" in _words and "EOLGUL_TEST_PODS" in os.environ:
    _pods = Path(os.environ["EOLGUL_TEST_PODS"])
    _component = _words[_words.index("--function_to_execute") + 1]
    _found = re.search(r"iteration-(\d+)", " ".join(_words))
    _iteration = _found[1] if _found else ""
    atexit.register(lambda: _note(cpu=f"{time.process_time():.1f}", work=f"{sum(_worked):.1f}"))
    _become_a_pod()
    _make_everything_small()
    _moment = _open_moment()
    if _moment:
        _MOMENTS[_moment]() if _moment in _MOMENTS else _after_a_file(_moment)
