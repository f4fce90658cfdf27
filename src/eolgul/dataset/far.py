"""The shards of a dataset in S3, read where they lie: one range of bytes for each image, kept in a bounded cache if asked."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eolgul.dataset.schema import SHARDS
from eolgul.storage.far import FarFile, FarFolder
from eolgul.storage.references import look_up, read_references
from eolgul.storage.s3 import join
from eolgul.storage.scratch import scratch_folder

_THREADS = 16  # requests at once of one process: a request takes some milliseconds, and a core reads thousands of images a second
_BLOCK = 512  # images begin at multiples of it: shards are tar archives
_LOOK = 32 << 20  # bytes that a process keeps between two looks at how full the cache is


class Cache(NamedTuple):
    """A folder for images that were read once.

    Attributes:
        folder: Where they go. Processes can share it.
        limit: Bytes that it may take; what comes later is read from S3 each time. Images are read in random order, so that no
            choice of what to forget would save more requests than none. It may be passed by 32 MiB for each process.
    """

    folder: Path
    limit: int


@contextmanager
def cache_folder(limit: int) -> Iterator[Cache | None]:
    """A cache for one run, removed at its end; None for a limit of 0. What killed runs have left behind goes, too."""
    if not limit:
        yield None
        return
    with scratch_folder("stream") as folder:
        yield Cache(folder, limit)


class FarShards:
    """The shards of the artifact at an `s3://` place. Threads can share it; in another process it connects anew."""

    def __init__(self, place: str, cache: Cache | None = None) -> None:
        """List the shards.

        Raises:
            InputError: A shard is an object of another artifact that is gone or has changed, or S3 does not answer.
        """
        self._place, self._cache = place, cache
        self._objects = {entry.name: entry.file for entry in FarFolder(join(place, SHARDS)).scan("") if entry.file}
        for name, reference in read_references(place).items():
            look_up(join(place, name), reference)
            file = FarFile(reference.uri, reference.size, reference.etag)
            self._objects[name.removeprefix(f"{SHARDS}/")] = file
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._kept, self._full = _LOOK, False
        self._data = self._have = -1
        if self._cache is not None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._data, self._have = (os.open(self._cache.folder / name, flags) for name in ("data", "have"))
            sizes = np.array([file.size for file in self._objects.values()], np.int64)
            begins = np.cumsum(-(-sizes // _BLOCK) * _BLOCK) - -(-sizes // _BLOCK) * _BLOCK
            self._begins = dict(zip(self._objects, begins.tolist(), strict=True))

    def __del__(self) -> None:
        for number in (self._data, self._have):
            if number >= 0:
                os.close(number)

    def _own(self) -> None:
        """After a fork, in the child: nothing of what the parent's threads use is used here."""
        if self._process != os.getpid():
            self._begin()

    def __getstate__(self) -> tuple[str, Cache | None, dict[str, FarFile]]:
        return self._place, self._cache, self._objects

    def __setstate__(self, state: tuple[str, Cache | None, dict[str, FarFile]]) -> None:
        self._place, self._cache, self._objects = state
        self._begin()

    def sizes(self) -> dict[str, int]:
        """The size of each shard in bytes, by its name."""
        return {name: file.size for name, file in self._objects.items()}

    def read(self, name: str, size: int, offset: int) -> bytes:
        """At most `size` bytes of the shard `name` from `offset` on.

        Raises:
            OSError: The shard is gone, or the cache's disk fails.
            InputError: The shard was replaced, or S3 does not answer.
        """
        self._own()
        file = self._objects.get(name)
        if file is None:
            raise FileNotFoundError(2, "no such shard in S3", join(self._place, SHARDS, name))
        if self._cache is None or not size:
            return file.read_range(offset, size)
        begin = self._begins[name] + offset
        if os.pread(self._have, 1, begin // _BLOCK) == b"\1":
            return os.pread(self._data, size, begin)
        found = file.read_range(offset, size)
        if self._has_room(len(found)):
            os.pwrite(self._data, found, begin)
            os.pwrite(self._have, b"\1", begin // _BLOCK)
        return found

    def ahead(self, wanted: Iterable[tuple[str, int, int]]) -> list[Future[bytes]]:
        """Begin to read many; each is `(name, size, offset)`."""
        self._own()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS)
        return [self._pool.submit(self.read, *one) for one in wanted]

    def _has_room(self, size: int) -> bool:
        assert self._cache is not None
        with self._lock:
            self._kept += size
            if self._kept >= _LOOK and not self._full:
                self._kept = 0
                self._full = os.fstat(self._data).st_blocks * 512 >= self._cache.limit
        return not self._full
