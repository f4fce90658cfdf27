"""A folder of S3 as a tree of files that are read where they lie: listed folder by folder, each file with one request.

Nothing is copied to the local disk, so what a walk passes over costs its line of the listing and no more.
"""

from __future__ import annotations

import contextlib
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from eolgul.errors import InputError
from eolgul.storage.download import fetch
from eolgul.storage.s3 import connect, join, split

_MANY = 1000  # folders at the top from which on the whole tree is listed in one go: one request lists as many names


class FarFile(NamedTuple):
    """An object that is read where it lies. It can be pickled.

    Attributes:
        uri: Its place.
        size: Its size in bytes.
        etag: Its version.
    """

    uri: str
    size: int
    etag: str

    def read_bytes(self) -> bytes:
        """Read it whole.

        Raises:
            FileNotFoundError: It is gone.
            InputError: It was replaced since it was listed, or S3 does not answer.
        """
        return self._get(0, 0) if self.size else b""

    def read_head(self, count: int) -> bytes:
        """The first bytes, at most `count`; raises what `read_bytes` does."""
        return self.read_range(0, count)

    def read_range(self, offset: int, size: int) -> bytes:
        """At most `size` bytes from `offset` on, fewer at its end; raises what `read_bytes` does."""
        size = min(size, self.size - offset)
        return self._get(offset, size) if size > 0 else b""

    def _get(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on; 0 for all of them."""
        from minio.error import S3Error

        bucket, key = split(self.uri)
        with connect(self.uri) as client:
            try:
                response = client.get_object(bucket_name=bucket, object_name=key, offset=offset, length=length)
            except S3Error as error:
                if error.code == "NoSuchKey":
                    raise FileNotFoundError(2, "gone since it was listed", self.uri) from error
                raise
            with contextlib.closing(response):
                data: bytes = response.read()
                found = str(response.headers.get("ETag", "")).strip('"')
                response.release_conn()
        if found and found != self.etag:
            raise InputError(f"{self.uri}: was replaced while it was read; run it again")
        return data


class _Facts(NamedTuple):
    """What `os.stat_result` says of a file, as far as a walk asks."""

    st_mode: int
    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int


@dataclass(frozen=True, slots=True)
class FarEntry:
    """A file or folder of a listing, with the methods of `os.DirEntry`; it is never a link.

    Attributes:
        name: Its name.
        path: Its path below the top.
        file: The file; None for a folder.
    """

    name: str
    path: str
    file: FarFile | None

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a folder."""
        return self.file is None

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a file."""
        return self.file is not None

    def stat(self, *, follow_symlinks: bool = True) -> _Facts:
        """Mode, size, and the version as the time of modification."""
        if self.file is None:
            return _Facts(stat.S_IFDIR, 0, 0, 0)
        return _Facts(stat.S_IFREG, self.file.size, zlib.crc32(self.file.etag.encode()), 0)


_Node = dict[str, Any]  # by name: a node for a folder, a FarFile for a file


@dataclass
class FarFolder:
    """The tree below an `s3://` prefix.

    Memory: the names of one folder two levels below the top with all that is in it, or of one folder at the top where there
    are more than 1,000 of these.
    """

    uri: str
    _top: list[FarEntry] = field(default_factory=list)
    _deep: tuple[str, _Node] | None = None  # the folder that is listed with all that is in it, by its path
    _stream: _Groups | None = None

    def __post_init__(self) -> None:
        self.uri = self.uri.rstrip("/")
        self._top = self._list("")
        if sum(entry.is_dir() for entry in self._top) > _MANY:
            self._stream = _Groups(self._walk(""))

    @property
    def is_empty(self) -> bool:
        """Whether nothing lies there."""
        return not self._top

    def scan(self, below: str) -> list[FarEntry]:
        """What lies in a folder, sorted by name.

        Args:
            below: Its path below the top; "" for the top.

        Raises:
            InputError: A key has a part that is no name of a file, or S3 does not answer.
        """
        if not below:
            return self._top
        parts = below.split("/")
        level = 1 if self._stream is not None else 2
        if len(parts) < level:
            return self._list(below)
        base = "/".join(parts[:level])
        if self._deep is None or self._deep[0] != base:
            self._deep = base, self._tree(base)
        node: Any = self._deep[1]
        for name in parts[level:]:
            node = node.get(name, {})
        return [
            FarEntry(name, f"{below}/{name}", None if isinstance(child, dict) else child)
            for name, child in sorted(node.items())
        ]

    def paths(self, below: str) -> Iterator[str]:
        """The paths in a folder of all files in it and below."""
        return (path for path, _ in self._walk(below))

    def read_bytes(self, path: str) -> bytes:
        """Read a small file by its path below the top. Raises FileNotFoundError."""
        above, _, name = path.rpartition("/")
        for entry in self.scan(above):
            if entry.name == name and entry.file is not None:
                return entry.file.read_bytes()
        raise FileNotFoundError(2, "no such object", join(self.uri, path))

    def copy(self, path: str) -> Path:
        """A file's copy in the local cache, by its path below the top."""
        return fetch(join(self.uri, path))

    def _tree(self, base: str) -> _Node:
        """A folder with all that is in it."""
        found = self._stream.group(base) if self._stream is not None else self._walk(base)
        node: _Node = {}
        for path, file in found:
            *folders, name = path.split("/")
            place = node
            for folder in folders:
                inner = place.get(folder)
                if not isinstance(inner, dict):  # S3 may have an object of a folder's name: the folder is kept
                    inner = place[folder] = {}
                place = inner
            place.setdefault(name, file)
        return node

    def _list(self, below: str) -> list[FarEntry]:
        """A folder's files and folders, by one listing."""
        folder = join(self.uri, below) if below else self.uri
        bucket, key = split(folder)
        prefix = f"{key}/" if key else ""
        files: dict[str, FarEntry] = {}
        folders: dict[str, FarEntry] = {}
        with connect(folder) as client:
            for item in client.list_objects(bucket_name=bucket, prefix=prefix):
                name = self._checked(item.object_name.removeprefix(prefix).rstrip("/"), item.object_name)
                path = f"{below}/{name}" if below else name
                if item.is_dir:
                    if name:  # SeaweedFS lists the folder itself
                        folders[name] = FarEntry(name, path, None)
                else:
                    files[name] = FarEntry(name, path, _file(bucket, item))
        return [entry for _, entry in sorted((files | folders).items())]

    def _walk(self, below: str) -> Iterator[tuple[str, FarFile]]:
        """All files below a folder, by their paths below it, in the order of the listing."""
        folder = join(self.uri, below) if below else self.uri
        bucket, key = split(folder)
        prefix = f"{key}/" if key else ""
        with connect(folder) as client:
            for item in client.list_objects(bucket_name=bucket, prefix=prefix, recursive=True):
                if not item.is_dir:
                    path = item.object_name.removeprefix(prefix)
                    yield self._checked(path, item.object_name), _file(bucket, item)

    def _checked(self, path: str, key: str) -> str:
        if any(part in ("..", ".") for part in path.split("/")) or "//" in path:
            raise InputError(f"{self.uri}: holds the key {key!r}, which is not the path of a file: refused")
        return path


@dataclass
class _Groups:
    """A listing in order, given out by the first part of its paths; parts that come before they are asked for are kept."""

    found: Iterator[tuple[str, FarFile]]
    _early: dict[str, list[tuple[str, FarFile]]] = field(default_factory=dict)
    _given: set[str] = field(default_factory=set)
    _waiting: tuple[str, str, FarFile] | None = None

    def group(self, name: str) -> list[tuple[str, FarFile]]:
        """The files below the folder `name`, by their paths in it. Each is given once."""
        while name not in self._early:
            following = self._next()
            if following is None:
                return []
            first, files = following
            if first in self._given or first in self._early:
                raise InputError(f"the listing of S3 names {first} twice, with others between; expected it in order")
            self._early[first] = files
        self._given.add(name)
        return self._early.pop(name)

    def _next(self) -> tuple[str, list[tuple[str, FarFile]]] | None:
        """The next folder with its files; files at the top are passed over."""
        first, files = "", list[tuple[str, FarFile]]()
        while True:
            item, self._waiting = self._waiting, None
            if item is None:
                path, file = next(self.found, ("", None))
                if file is None:
                    return (first, files) if files else None
                above, slash, rest = path.partition("/")
                if not slash:
                    continue
                item = above, rest, file
            if files and item[0] != first:
                self._waiting = item
                return first, files
            first = item[0]
            files.append(item[1:])


def _file(bucket: str, item: Any) -> FarFile:
    return FarFile(f"s3://{bucket}/{item.object_name}", int(item.size or 0), str(item.etag or "").strip('"'))
