"""Upload files and artifacts to S3, the card last: a prefix that has its card is whole."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from eolgul.artifact import CARDS, check_replaceable, listed_files
from eolgul.errors import InputError
from eolgul.storage.download import fetch, mark_copy
from eolgul.storage.s3 import (
    THREADS,
    connect,
    is_s3,
    join,
    list_objects_below,
    read_bytes,
    settings,
    split,
    write_bytes,
)

DIGEST_KEY = "sha256"  # the user metadata with the SHA-256 of an uploaded file
_UNFINISHED = ".unfinished.json"  # lists an artifact's files below a prefix whose card is removed while it is replaced


def publish(path: Path, uri: str, *, replace: bool = False) -> None:
    """Upload a file or a folder to `uri`: objects of an earlier artifact are removed first, the new card goes last.

    Large files go up in parts, each with a checksum that S3 verifies; failures are repeated with growing waits. Files that
    an earlier, interrupted upload of the artifact left there whole (equal SHA-256) are not sent again.

    Args:
        path: a local file or folder.
        uri: the `s3://` place.
        replace: remove everything else below `uri`, except artifacts.

    Raises:
        InputError: when anything else than an artifact lies below `uri`, or S3 does not answer.
    """
    _publish(path, uri, replace)


def _publish(path: Path, uri: str, replace: bool = False) -> dict[str, tuple[Path, str]]:
    """As `publish`; returns the file and the etag of each object."""
    bucket, key = split(uri)
    done: dict[str, tuple[Path, str]] = {}

    there = {item.object_name: item.size for item in list_objects_below(uri)}
    digests = _card_digests(path)

    def put(file: Path, name: str) -> None:
        sha256 = digests.get(file.relative_to(path).as_posix()) if path.is_dir() else None
        with connect(f"s3://{bucket}/{name}") as client:
            if sha256 is not None and there.get(name) == file.stat().st_size:
                found = client.stat_object(bucket_name=bucket, object_name=name)
                if (found.metadata or {}).get(f"x-amz-meta-{DIGEST_KEY}") == sha256:
                    done[name] = (file, str(found.etag))
                    return
            result = client.fput_object(
                bucket_name=bucket,
                object_name=name,
                file_path=str(file),
                metadata={DIGEST_KEY: sha256} if sha256 is not None else None,
            )
        done[name] = (file, str(result.etag))

    if path.is_file():
        put(path, key)
        return done
    below = f"{key}/" if key else ""
    files = {f"{below}{file.relative_to(path).as_posix()}": file for file in sorted(path.rglob("*")) if file.is_file()}
    if not files:
        raise InputError(f"{path}: nothing in it to publish at {uri}")
    cards = {name: file for name, file in files.items() if file.parent == path and file.name in CARDS.values()}
    stale = [name for name in there if name not in files or name in cards]
    _check_foreign(uri, stale, replace)
    unfinished = f"{below}{_UNFINISHED}"
    if cards and not replace:  # until the new card is there, only this list says that the objects belong to an artifact
        names = [name.removeprefix(below) for name in (*stale, *files)]
        write_bytes(f"s3://{bucket}/{unfinished}", json.dumps({"files": names}).encode())
        stale = [name for name in stale if name != unfinished]

    def remove(name: str) -> None:
        with connect(uri) as client:
            client.remove_object(bucket_name=bucket, object_name=name)

    for name in sorted(stale, key=lambda name: PurePosixPath(name).name not in CARDS.values()):
        remove(name)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda name: put(files[name], name), files.keys() - cards.keys()))
    if cards and not replace:
        remove(unfinished)
    for name, file in cards.items():
        put(file, name)
    return done


def _card_digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a local artifact, from its card; empty for another folder."""
    for name in CARDS.values():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            files = json.loads((folder / name).read_bytes())["files"]
            return {file: str(facts["sha256"]) for file, facts in files.items()}
    return {}


def _check_foreign(uri: str, stale: Collection[str], replace: bool = False) -> None:
    """Refuse to remove objects below `uri` that the artifact there does not list; with `replace`, only other cards."""
    _, key = split(uri)
    below = f"{key}/" if key else ""
    own = {*CARDS.values(), _UNFINISHED}
    foreign = sorted(name for name in stale if name.removeprefix(below) not in own)
    if not foreign:
        return
    listed = set().union(*(listed_files(read_bytes(join(uri, name)) or b"") for name in sorted(own)))
    foreign = [name for name in foreign if name.removeprefix(below) not in listed]
    for name in foreign:
        if PurePosixPath(name).name in CARDS.values():
            raise InputError(
                f"{uri}: another artifact lies below it ({name}) and would be removed; choose another place"
            )
    if foreign and not replace:
        raise InputError(
            f"{uri}: holds {foreign[0]}, which does not belong to an artifact there and would be removed; choose another place"
        )


@contextmanager
def destination(uri: str | Path, inputs: Sequence[str | Path] = ()) -> Iterator[Path]:
    """Yield a local path to write an artifact to: `uri` itself, or a place in the cache that is published at the end.

    It is published when the block ends well. An artifact at an `s3://` place is fetched first, so that a step can see that
    its work is done already.

    Args:
        uri: a local path or an `s3://` place.
        inputs: places that the step reads; none of them may lie in `uri`.

    Raises:
        InputError: before any work, when an input or anything else than an artifact would be lost.
    """
    for item in inputs:
        if _lies_in(item, uri):
            raise InputError(f"{uri}: is to be written but holds the input {item}; choose another place")
    if not is_s3(uri):
        if _local_card(Path(uri)) is None:  # else the step may find that nothing is to be done
            check_replaceable(Path(uri))
        yield Path(uri)
        return
    uri = str(uri)
    bucket, key = split(uri)
    local = settings().cache / bucket / key
    before = _read_card(uri)
    there = [item.object_name for item in list_objects_below(uri)]
    if before is not None:
        _check_foreign(uri, there)
        fetch(uri)
    else:  # perhaps an unfinished upload: `publish` checks that when the artifact is made
        _check_foreign(uri, there, replace=True)
    try:
        check_replaceable(local)
    except InputError:  # copies of objects that S3 no longer has, or has as something else
        local.unlink() if local.is_file() else shutil.rmtree(local)
    yield local
    if before is None or _local_card(local) != before or not _is_whole(local, uri):
        done = _publish(local, uri)
        for item in list_objects_below(uri):  # the next step need not fetch what this one made
            file, etag = done.get(item.object_name, (None, ""))
            if file is not None and etag.strip('"') == str(item.etag).strip('"'):
                mark_copy(file, item)


def _lies_in(item: str | Path, uri: str | Path) -> bool:
    """Whether `item` is the place `uri` or lies below it."""
    if is_s3(item) != is_s3(uri):
        return False
    if not is_s3(uri):
        return Path(item).resolve().is_relative_to(Path(uri).resolve())
    (bucket, key), (other, above) = split(str(item)), split(str(uri))
    return bucket == other and (not above or f"{key}/".startswith(f"{above}/"))


def _is_whole(local: Path, uri: str) -> bool:
    """Whether S3 has every file of a local artifact, with equal length."""
    _, key = split(uri)
    sizes = {item.object_name.removeprefix(f"{key}/" if key else ""): item.size for item in list_objects_below(uri)}
    return all(
        sizes.get(file.relative_to(local).as_posix()) == file.stat().st_size
        for file in local.rglob("*")
        if file.is_file()
    )


def _read_card(uri: str) -> bytes | None:
    return next((data for name in CARDS.values() if (data := read_bytes(join(uri, name))) is not None), None)


def _local_card(path: Path) -> bytes | None:
    return next((file.read_bytes() for name in CARDS.values() if (file := path / name).is_file()), None)
