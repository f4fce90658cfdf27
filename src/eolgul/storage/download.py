"""Copy objects from S3 into the cache on the local disk."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import zlib
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from eolgul.errors import InputError
from eolgul.files import is_unfinished
from eolgul.storage.references import REFERENCES, look_up, read_references
from eolgul.storage.s3 import THREADS, connect, is_s3, list_objects_below, settings, split


def fetch(uri: str | Path, *, without: Collection[str] = ()) -> Path:
    """The local path of `uri`: itself when local, else a copy in the cache that is brought up to date.

    `uri` may be an object or a whole prefix. Files that the cache has in S3's version are not fetched again; files that S3
    no longer has are removed. A file that an artifact only refers to (`eolgul.storage.references`) is fetched to the cache's
    place of the object that it is, and gets a second name (a hard link) in the artifact.

    Args:
        uri: a local path or an `s3://` place.
        without: folders directly below `uri` that are not needed; what the cache has of them stays as it is.

    Raises:
        InputError: when there is nothing at `uri`, an object that is referred to is gone, or S3 does not answer.
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
    target = root / key if key else root
    wanted: dict[Path, Any] = {}
    linked: dict[Path, Path] = {}  # the cache's copy of an object, by the file that refers to it
    buckets = {bucket}

    def want(place: Path, top: Path, item: Any) -> None:
        if ".." in place.parts or not place.is_relative_to(top):
            raise InputError(f"{uri}: holds the key {item.object_name!r}, which leads out of the cache: refused")
        wanted[place] = item

    def skipped(path: Path) -> bool:
        return path.is_relative_to(target) and path.relative_to(target).parts[:1] in [(name,) for name in without]

    for item in objects:
        path = root.joinpath(*PurePosixPath(item.object_name).parts)
        if path.name == REFERENCES:
            above = f"s3://{bucket}/{item.object_name}".removesuffix(f"/{REFERENCES}")
            for name, reference in read_references(above).items():
                if skipped(path.parent / name):
                    continue
                top = settings().cache / reference.bucket
                place = top.joinpath(*PurePosixPath(reference.key).parts)
                want(place, top, look_up(f"{above}/{name}", reference))
                linked[path.parent / name] = place
                buckets.add(reference.bucket)
        elif not skipped(path):
            want(path, root, item)

    def get(path: Path) -> None:
        item = wanted[path]
        if is_copy(path, item):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with connect(f"s3://{item.bucket_name}/{item.object_name}") as client:
            try:
                client.fget_object(bucket_name=item.bucket_name, object_name=item.object_name, file_path=str(path))
            except BaseException:
                # A half-written file would keep a full disk full.
                for begun in path.parent.glob(f"{glob.escape(path.name)}.*.part.minio"):
                    begun.unlink(missing_ok=True)
                raise
        mark_copy(path, item)

    with ExitStack() as locks:
        for name in sorted(buckets):  # in one order for all processes
            locks.enter_context(_locked_cache(name))
        for path in target.rglob("*") if target.is_dir() else ():
            unfinished = any(map(is_unfinished, path.relative_to(root).parts))  # of a running step
            if path.is_file() and path not in wanted and path not in linked and not unfinished and not skipped(path):
                path.unlink()
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(get, wanted))
        for path, place in linked.items():
            _link(place, path)
    return target


def _link(file: Path, to: Path) -> None:
    """Give a file of the cache a second name; it is one file system, and one that has no links gets a copy."""
    if to.exists() and to.samefile(file):
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    to.unlink(missing_ok=True)
    try:
        os.link(file, to)
    except OSError:
        shutil.copy2(file, to)


def _stamp(item: Any) -> int:
    """The modification time (ns) of an object's copy, with microseconds from the etag.

    S3 gives seconds, and two versions of one size can be equally old.
    """
    return int(item.last_modified.timestamp()) * 10**9 + zlib.crc32(str(item.etag).strip('"').encode()) % 10**6 * 1000


def is_copy(path: Path, item: Any) -> bool:
    """Whether a file is the copy of this version of an object, as `mark_copy` marked it."""
    return path.is_file() and path.stat().st_size == item.size and path.stat().st_mtime_ns == _stamp(item)


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
