"""The open shards of all datasets in this process: at most `MOST` files, the least recently used closed first.

A dataset of 13 million images has thousands of shards, and a process may have 1,024 open files or fewer (`ulimit -n`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable
from pathlib import Path

MOST = 256
_SHARE = 4  # of the files that the process may open, one in so many is a shard at most
_owners = itertools.count()


class _Handle:
    """An open file; `users` threads are reading from it, and it is closed when the last of them has finished."""

    __slots__ = ("closing", "descriptor", "users")

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.users, self.closing = descriptor, 0, False


class _Files:
    """The files that are open, least recently used first, by owner and name."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open: OrderedDict[tuple[int, str], _Handle] = OrderedDict()
        self.gone: deque[int] = (
            deque()
        )  # owners that no longer exist; filled without the lock, by the garbage collector

    def read(self, owner: int, folder: Path, name: str, size: int, offset: int) -> bytes:
        key = owner, name
        with self.lock:
            handle = self.open.get(key)
            if handle is None:
                self.forget_gone()
                self.make_room(limit() - 1)
                handle = self.open[key] = _Handle(os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC))
            else:
                self.open.move_to_end(key)
            handle.users += 1
        try:
            return os.pread(handle.descriptor, size, offset)
        finally:
            with self.lock:
                handle.users -= 1
                if handle.closing and not handle.users:
                    os.close(handle.descriptor)

    def make_room(self, most: int) -> None:
        """Close the least recently used files until at most so many are left; one in use is closed after its use."""
        while len(self.open) > most:
            self._close(self.open.popitem(last=False)[1])

    def forget_gone(self) -> None:
        """Close the files of owners that no longer exist."""
        while self.gone:
            owner = self.gone.popleft()
            for key in [key for key in self.open if key[0] == owner]:
                self._close(self.open.pop(key))

    def begin_anew(self) -> None:
        """After a fork, in the child: another thread of the parent may have had the lock, and nobody reads here yet."""
        for handle in self.open.values():
            os.close(handle.descriptor)
        self.lock, self.open = threading.Lock(), OrderedDict()

    def _close(self, handle: _Handle) -> None:
        if handle.users:
            handle.closing = True
        else:
            os.close(handle.descriptor)


_files = _Files()


def limit() -> int:
    """How many shards this process keeps open: `MOST`, or a share of what `ulimit -n` allows."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if allowed == resource.RLIM_INFINITY else max(1, min(MOST, allowed // _SHARE))


class ShardFiles:
    """The shards of one dataset. Threads can share it; in another process (by fork or pickling) it opens files anew."""

    def __init__(self, folder: Path) -> None:
        """`folder` has the shards."""
        self._folder, self._owner = folder, next(_owners)

    def __reduce__(self) -> tuple[type[ShardFiles], tuple[Path]]:
        return ShardFiles, (self._folder,)

    def __del__(self) -> None:
        _files.gone.append(self._owner)
        # The collector may run within `read`, which has the lock; then the next `read` that opens a file closes them.
        if _files.lock.acquire(blocking=False):
            try:
                _files.forget_gone()
            finally:
                _files.lock.release()

    def read(self, name: str, size: int, offset: int) -> bytes:
        """At most `size` bytes of the shard `name` from `offset` on: one positioned read.

        Raises:
            OSError: when the shard cannot be opened or read.
        """
        return _files.read(self._owner, self._folder, name, size, offset)

    def expect(self, name: str, ranges: Iterable[tuple[int, int]]) -> None:
        """Have the kernel read byte ranges of a shard ahead, where it does that; what it has read, other processes find, too."""
        if not hasattr(os, "posix_fadvise"):
            return
        with contextlib.suppress(OSError):  # `read` says what is wrong with a shard
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                for begin, end in ranges:
                    os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)


os.register_at_fork(after_in_child=_files.begin_anew)
