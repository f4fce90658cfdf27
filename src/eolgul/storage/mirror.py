"""Copy everything below an S3 place to a folder, or back: the backup of a bucket and its restore."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from eolgul.artifact import CARDS
from eolgul.config import Progress, count_up
from eolgul.errors import InputError
from eolgul.storage.download import is_copy, mark_copy
from eolgul.storage.s3 import THREADS, connect, is_s3, list_objects_below, split

POINTERS = ("production.json", "history.jsonl")  # of a registry: they name models


def mirror(source: str, target: str, progress: Progress | None = None) -> dict[str, int]:
    """Bring the copy of a place up to date; what the copy has besides is kept.

    Files and objects that are equal already are not sent again. Pointers are read before the models that they name and written
    after them, and cards are written after the files that they list, so that a copy that was interrupted, or made while models
    are promoted, names nothing that it does not have.

    Args:
        source: an `s3://` place, or a folder that was such a copy.
        target: the other one.
        progress: is told how many are done.

    Returns:
        The number of objects and of bytes at the source, and how many objects were copied.

    Raises:
        InputError: when not exactly one is in S3, a name cannot be a file's, or the copy is not complete in the end.
    """
    if is_s3(source) == is_s3(target):
        raise InputError(f"{source} and {target}: expected one place in S3 and one folder")
    return _down(source, Path(target), progress) if is_s3(source) else _up(Path(source), target, progress)


def _down(source: str, folder: Path, progress: Progress | None) -> dict[str, int]:
    first = {item.object_name: item for item in list_objects_below(source) if _rank(item.object_name) == 2}
    copied = sum(_get(item, _file(folder, source, item)) for item in first.values())
    items = [item for item in list_objects_below(source) if item.object_name not in first]
    if not items and not first:
        raise InputError(f"{source}: nothing is there")
    copied += _each(lambda item: _get(item, _file(folder, source, item)), items, progress)
    whole = [*first.values(), *items]
    lost = [item for item in whole if _size(_file(folder, source, item)) != item.size]
    return _counts(
        [item.size for item in whole], copied, [f"s3://{item.bucket_name}/{item.object_name}" for item in lost]
    )


def _up(folder: Path, target: str, progress: Progress | None) -> dict[str, int]:
    bucket, key = split(target)
    names = {
        path: "/".join(filter(None, (key, path.relative_to(folder).as_posix())))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".part.minio")
    }
    if not names:
        raise InputError(f"{folder}: nothing is there")
    there = {item.object_name: item for item in list_objects_below(target)}

    def put(path: Path) -> bool:
        name = names[path]
        if (item := there.get(name)) is not None and is_copy(path, item):
            return False
        with connect(f"s3://{bucket}/{name}") as client:
            client.fput_object(bucket_name=bucket, object_name=name, file_path=str(path))
            # Its time is that of the object from now on, so that the next run knows it again.
            mark_copy(path, client.stat_object(bucket_name=bucket, object_name=name))
        return True

    copied = 0
    for rank in range(3):
        copied += _each(put, [path for path in names if _rank(names[path]) == rank], progress)
    sizes = {item.object_name: item.size for item in list_objects_below(target)}
    lost = [str(path) for path, name in names.items() if sizes.get(name) != path.stat().st_size]
    return _counts([path.stat().st_size for path in names], copied, lost)


def _rank(name: str) -> int:
    """0: a file; 1: a card, which lists files; 2: a pointer, which names artifacts."""
    last = PurePosixPath(name).name
    return 2 if last in POINTERS else 1 if last in CARDS.values() else 0


def _each(copy: Callable[[Any], bool], items: list[Any], progress: Progress | None) -> int:
    tell = count_up(progress, len(items))
    copied = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for done in pool.map(copy, items):
            copied += done
            tell(1)
    return copied


def _file(folder: Path, source: str, item: Any) -> Path:
    _, key = split(source)
    name = item.object_name if item.object_name == key else item.object_name.removeprefix(f"{key}/" if key else "")
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute():
        raise InputError(f"s3://{item.bucket_name}/{item.object_name}: its name cannot be that of a file")
    return folder.joinpath(*parts)


def _get(item: Any, path: Path) -> bool:
    if is_copy(path, item):
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with connect(f"s3://{item.bucket_name}/{item.object_name}") as client:
            client.fget_object(bucket_name=item.bucket_name, object_name=item.object_name, file_path=str(path))
        mark_copy(path, item)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _counts(sizes: list[int], copied: int, lost: list[str]) -> dict[str, int]:
    if lost:
        raise InputError(f"{lost[0]} and {len(lost) - 1} more are not in the copy as they are at the source")
    return {"objects": len(sizes), "bytes": sum(sizes), "copied": copied}
