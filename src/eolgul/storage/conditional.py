"""Writes that several writers of one thing can make at once: the first one stays, and the others see it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from eolgul.artifact import CARDS, open_artifact
from eolgul.errors import InputError
from eolgul.storage.download import mark_copy
from eolgul.storage.references import FOLDER, REFERENCES, find_objects, references_of
from eolgul.storage.s3 import (
    THREADS,
    connect,
    http_pool,
    is_s3,
    join,
    list_objects_below,
    read_bytes,
    settings,
    split,
    write_bytes,
)
from eolgul.storage.upload import DIGEST_KEY

_VALID = timedelta(minutes=15)
_ATTEMPTS = 5


def put_if_absent(uri: str, data: bytes) -> bytes:
    """Write a small object or file unless there is one, in one step; return the bytes that are there afterwards.

    In S3 this is `PUT` with `If-None-Match: *` (MinIO, SeaweedFS, AWS since 2024).

    Raises:
        InputError: When S3 does not answer, or refuses for another reason than that the object exists.
    """
    if not is_s3(uri):
        return _link_if_absent(Path(uri), data)
    bucket, key = split(uri)
    for _ in range(_ATTEMPTS):
        with connect(uri) as client:
            address = client.get_presigned_url("PUT", bucket, key, expires=_VALID)
            answer = http_pool().request("PUT", address, body=data, headers={"If-None-Match": "*"})
        if answer.status == 200:
            return data
        if answer.status not in (409, 412):  # another writer's in this moment, or there already
            raise InputError(f"{uri}: S3 refuses to write it ({answer.status} {_code(answer.data)})")
        there = read_bytes(uri)  # a repeated request of our own may have been the first
        if there is not None:
            return there
    raise InputError(f"{uri}: S3 says that it exists but does not give it; is it removed again and again?")


def _code(body: bytes) -> str:
    return body.partition(b"<Code>")[2].partition(b"</Code>")[0].decode(errors="replace") or "without a reason"


def _link_if_absent(path: Path, data: bytes) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        for _ in range(_ATTEMPTS):
            try:
                os.link(name, path)
                return data
            except FileExistsError:
                with contextlib.suppress(FileNotFoundError):
                    return path.read_bytes()
    finally:
        Path(name).unlink(missing_ok=True)
    raise InputError(f"{path}: exists in one moment and not in the next; is it removed again and again?")


def remove_object(uri: str) -> None:
    """Remove one object or file; nothing happens when it is not there."""
    if not is_s3(uri):
        Path(uri).unlink(missing_ok=True)
        return
    bucket, key = split(uri)
    with connect(uri) as client:
        client.remove_object(bucket_name=bucket, object_name=key)


def remove_below(uri: str) -> None:
    """Remove all objects below a prefix, or a folder."""
    if not is_s3(uri):
        shutil.rmtree(uri, ignore_errors=True)
        return
    bucket, _ = split(uri)
    for item in list_objects_below(uri):
        remove_object(f"s3://{bucket}/{item.object_name}")


def add_artifact(folder: Path, uri: str, *, refer_to: Sequence[str] = ()) -> None:
    """Move a local artifact to a place that is named after its content, unless it is there.

    Nothing at the place is ever removed or replaced by other bytes, so any number of writers may add the same artifact at
    once, and a reader who sees the card sees all its files. In S3 the card goes last; the local files stay in the cache.

    Args:
        folder: The artifact, which is gone from there afterwards.
        uri: A place whose name contains the artifact's digest.
        refer_to: In S3, artifacts that have shards of the new one: these are referred to (`eolgul.storage.references`), and
            need not be in `folder`.

    Raises:
        InputError: A shard is neither here nor an object of those artifacts.
    """
    artifact = open_artifact(folder, without=(FOLDER,) if refer_to else ())
    card = CARDS[artifact.kind]
    if not is_s3(uri):
        place = Path(uri)
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # it is there
            folder.rename(place)
        shutil.rmtree(folder, ignore_errors=True)
        open_artifact(place)
        return
    bucket, key = split(uri)
    there = {item.object_name: item.size for item in list_objects_below(uri)}

    shards = {name: facts for name, facts in artifact.card["files"].items() if name.startswith(f"{FOLDER}/")}
    sizes = {name: (str(facts["sha256"]), int(facts["size"])) for name, facts in shards.items()}
    referred = find_objects(sizes, refer_to) if refer_to else {}
    own = [name for name in artifact.card["files"] if name not in referred]
    lost = [name for name in own if not (folder / name).is_file()]
    if lost:
        raise InputError(f"{uri}: {lost[0]} is neither on this machine nor an object of {', '.join(refer_to)}")

    def put(name: str) -> None:
        facts = artifact.card["files"][name]
        with connect(f"s3://{bucket}/{key}/{name}") as client:
            if there.get(f"{key}/{name}") == facts["size"]:
                found = client.stat_object(bucket_name=bucket, object_name=f"{key}/{name}")
                if (found.metadata or {}).get(f"x-amz-meta-{DIGEST_KEY}") == facts["sha256"]:
                    return
            client.fput_object(
                bucket_name=bucket,
                object_name=f"{key}/{name}",
                file_path=str(folder / name),
                metadata={DIGEST_KEY: facts["sha256"]},
            )

    if f"{key}/{card}" not in there:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(put, own))
        if referred:
            write_bytes(join(uri, REFERENCES), references_of(referred))
        write_bytes(join(uri, card), (folder / card).read_bytes())
    copy = settings().cache / bucket / key
    copy.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # another process of this machine has fetched it
        folder.rename(copy)
        for item in list_objects_below(uri):
            file = settings().cache / bucket / item.object_name
            if file.is_file() and file.stat().st_size == item.size:
                mark_copy(file, item)
    shutil.rmtree(folder, ignore_errors=True)
