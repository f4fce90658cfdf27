"""One shard: a plain tar (POSIX ustar, pax where a name needs it) of encoded images, hashed while it is written.

The bytes are those that Python's `tarfile` writes for the same members. Headers are made from a template, so that small
images are stored at the speed of the disk.
"""

from __future__ import annotations

import hashlib
import tarfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

_BLOCK = tarfile.BLOCKSIZE
_END = 2 * _BLOCK
_FLUSH = 4 << 20
_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 156)


def _template() -> bytes:
    member = tarfile.TarInfo("")
    member.mode = 0o644
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


_TEMPLATE = _template()
_BETWEEN, _BEHIND = _TEMPLATE[_NAME.stop : _SIZE.start], _TEMPLATE[_CHECKSUM.stop :]
_TIME = _TEMPLATE[_SIZE.stop : _CHECKSUM.start]
_SUM = sum(_BETWEEN) + sum(_BEHIND) + sum(_TIME) + 8 * ord(" ")  # a checksum counts its own field as spaces


def member_header(name: str, size: int) -> bytes:
    """The header of a tar member of `size` bytes: one block, or several for a long or non-ASCII name."""
    if name.isascii() and len(name) < 100 and size < 8**11:
        raw, digits = name.encode(), b"%011o" % size
        checksum = _SUM + sum(raw) + sum(digits)
        return b"".join((raw.ljust(100, b"\0"), _BETWEEN, digits, b"\0", _TIME, b"%06o\0 " % checksum, _BEHIND))
    member = tarfile.TarInfo(name)
    member.mode, member.size = 0o644, size
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def member_size(size: int) -> int:
    """The bytes of a shard that an image of `size` bytes takes, with a header of one block."""
    return _BLOCK + (size + _BLOCK - 1) // _BLOCK * _BLOCK


class Shard:
    """A tar that is being written. `size` is its length in bytes so far; `sha256` is known when it is closed."""

    def __init__(self, path: Path) -> None:
        """Create the file at `path`."""
        self.path = path
        self.size = 0
        self.sha256 = ""
        self._file = path.open("wb", buffering=0)
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._hash = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1)  # hashing a block releases the interpreter, so that writing goes on
        self._hashed: Future[None] | None = None

    def add(self, name: str, data: bytes) -> int:
        """Append an image as the member `name`; return the offset of its first byte in the file."""
        header = member_header(name, len(data))
        offset = self.size + len(header)
        padding = -len(data) % _BLOCK
        self._pieces += (header, data, bytes(padding))
        added = len(header) + len(data) + padding
        self.size += added
        self._waiting += added
        if self._waiting > _FLUSH:
            self._flush()
        return offset

    def _flush(self) -> None:
        block = b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        if self._hashed is not None:
            self._hashed.result()  # at most one block waits
        self._hashed = self._hasher.submit(self._hash.update, block)
        view = memoryview(block)
        while view:
            view = view[self._file.write(view) :]

    def close(self, *, whole: bool = True) -> None:
        """End the archive (padded to tar's record size) and close the file; with `whole` false, only close it."""
        try:
            if whole:
                end = _END + -(self.size + _END) % tarfile.RECORDSIZE
                self._pieces.append(bytes(end))
                self.size += end
                self._flush()
        finally:
            self._hasher.shutdown()
            self._file.close()
        self.sha256 = self._hash.hexdigest()
