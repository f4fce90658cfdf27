"""Copy objects from S3 into the cache on the local disk."""

from __future__ import annotations

import fcntl
import glob
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from eolgul.errors import InputError
from eolgul.files import is_unfinished
from eolgul.storage.s3 import THREADS, connect, is_s3, list_objects_below, settings, split


def fetch(uri: str | Path) -> Path:
    """The local path of `uri`: itself when local, else a copy in the cache that is brought up to date.

    `uri` may be an object or a whole prefix. Files that the cache has in S3's version are not fetched again; files that S3
    no longer has are removed.

    Raises:
        InputError: when there is nothing at `uri`, or S3 does not answer.
    """
    if not is_s3(uri):
        path = Path(uri)
        if not path.exists():
            raise InputError(f"{uri}: no such file or folder")
        return path
    uri = str(uri)
    bucket, key = split(uri)
    objects = list_objects_below(uri)
    if not objects:
        raise InputError(f"{uri}: nothing there")
    root = settings().cache / bucket
    wanted = {root.joinpath(*PurePosixPath(item.object_name).parts): item for item in objects}
    for path, item in wanted.items():
        if ".." in path.parts or not path.is_relative_to(root):
            raise InputError(f"{uri}: holds the key {item.object_name!r}, which leads out of the cache: refused")
    target = root / key if key else root

    def get(path: Path) -> None:
        item = wanted[path]
        if path.is_file() and path.stat().st_size == item.size and path.stat().st_mtime_ns == _stamp(item):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with connect(f"s3://{bucket}/{item.object_name}") as client:
            try:
                client.fget_object(bucket_name=bucket, object_name=item.object_name, file_path=str(path))
            except BaseException:
                # A half-written file would keep a full disk full.
                for begun in path.parent.glob(f"{glob.escape(path.name)}.*.part.minio"):
                    begun.unlink(missing_ok=True)
                raise
        mark_copy(path, item)

    with _locked_cache(bucket):
        for path in target.rglob("*") if target.is_dir() else ():
            unfinished = any(map(is_unfinished, path.relative_to(root).parts))  # of a running step
            if path.is_file() and path not in wanted and not unfinished:
                path.unlink()
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(get, wanted))
    return target


def _stamp(item: Any) -> int:
    """The modification time (ns) of an object's copy, with microseconds from the etag.

    S3 gives seconds, and two versions of one size can be equally old.
    """
    return int(item.last_modified.timestamp()) * 10**9 + zlib.crc32(str(item.etag).strip('"').encode()) % 10**6 * 1000


def mark_copy(path: Path, item: Any) -> None:
    """Mark a file as the copy of an object, so that `fetch` recognizes its version."""
    os.utime(path, ns=(_stamp(item), _stamp(item)))


@contextmanager
def _locked_cache(bucket: str) -> Iterator[None]:
    """Lock a bucket's part of the cache: one process at a time brings it up to date."""
    cache = settings().cache
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{bucket}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
