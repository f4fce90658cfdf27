"""S3 (MinIO and any other) and local paths behind one small interface.

Steps are functions of local paths. `source` brings an `s3://bucket/key` folder to the local disk before a step and
`destination` publishes what the step made after it, the card last: an S3 prefix that has its card is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import io
import json
import os
import shutil
import zlib
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from eolgul.artifact import CARDS, check_replaceable, listed_files
from eolgul.errors import InputError
from eolgul.files import is_unfinished, write_atomic

_THREADS = 8
_RETRIES = 5  # with waits of 0.3, 0.6, 1.2 … seconds between them
_DIGEST = "sha256"  # the user metadata that says what an uploaded file's bytes are
_UNFINISHED = ".unfinished.json"  # what was an artifact's below a prefix whose card is gone, while another replaces it


class S3Settings(BaseSettings):
    """Where S3 is, from the environment: EOLGUL_S3_ENDPOINT (host:port), …_ACCESS_KEY, …_SECRET_KEY, …; see README."""

    model_config = SettingsConfigDict(env_prefix="EOLGUL_S3_")

    endpoint: str = "127.0.0.1:9000"
    access_key: str = ""
    secret_key: SecretStr = SecretStr("")
    secure: bool = False
    region: str = "us-east-1"
    cache: Path = Path.home() / ".cache" / "eolgul" / "s3"


def is_s3(uri: str | Path) -> bool:
    return str(uri).startswith("s3://")


def join(uri: str, *parts: str) -> str:
    """A place below another, for `s3://` and local paths alike."""
    if is_s3(uri):
        return "/".join([uri.rstrip("/"), *parts])
    return str(Path(uri).joinpath(*parts))


@lru_cache(maxsize=1)
def _settings() -> S3Settings:
    try:
        return S3Settings()
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"EOLGUL_S3_{str(first['loc'][0]).upper()}: {first['input']!r}, {first['msg']}") from error


@lru_cache(maxsize=1)
def _client() -> Any:
    import urllib3
    from minio import Minio

    settings = _settings()
    # Every verb may be tried again: objects are put whole, and the POSTs begin or end an upload of one.
    retries = urllib3.Retry(
        total=_RETRIES,
        backoff_factor=0.3,
        backoff_jitter=0.3,
        status_forcelist=[500, 502, 503, 504],
        allowed_methods=None,
    )
    pool = urllib3.PoolManager(maxsize=2 * _THREADS, retries=retries, timeout=urllib3.Timeout(connect=5, read=60))
    return Minio(
        endpoint=settings.endpoint,
        access_key=settings.access_key or None,
        secret_key=settings.secret_key.get_secret_value() or None,
        secure=settings.secure,
        region=settings.region,
        http_client=pool,
    )


def forget_settings() -> None:
    """Read the environment again at the next use (the demo starts its own S3 and then points here)."""
    _settings.cache_clear()
    _client.cache_clear()


@contextmanager
def _telling(uri: str) -> Iterator[Any]:
    """Turn S3's own errors into one sentence that names the place."""
    from minio.error import MinioException, S3Error
    from urllib3.exceptions import HTTPError

    try:
        client = _client()
    except ValueError as error:
        raise InputError(f"EOLGUL_S3_ENDPOINT {_settings().endpoint!r}: {error}, expected host:port") from error
    try:
        yield client
    except S3Error as error:
        raise InputError(f"{uri}: {error.code}, {error.message}") from error
    except (MinioException, HTTPError) as error:
        unset = "" if os.environ.get("EOLGUL_S3_ENDPOINT") else "; EOLGUL_S3_ENDPOINT is not set"
        why = getattr(error, "reason", None) or error  # of urllib3's MaxRetryError, which repeats the whole address
        raise InputError(f"{uri}: S3 at {_settings().endpoint} does not answer as expected ({why}{unset})") from error
    except ValueError as error:  # of the SDK, about the bucket's or the object's name
        raise InputError(f"{uri}: {error}") from error


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise InputError(f"{uri}: expected s3://bucket/key")
    return bucket, key.strip("/")


def make_bucket(uri: str) -> None:
    """Create the bucket of `uri` unless it is there."""
    bucket, _ = _split(uri)
    with _telling(uri) as client:
        if not client.bucket_exists(bucket_name=bucket):
            client.make_bucket(bucket_name=bucket)


def read_bytes(uri: str) -> bytes | None:
    """The bytes of one small object or file, None when there is none."""
    if not is_s3(uri):
        path = Path(uri)
        return path.read_bytes() if path.is_file() else None
    from minio.error import S3Error

    bucket, key = _split(uri)
    with _telling(uri) as client:
        try:
            response = client.get_object(bucket_name=bucket, object_name=key)
        except S3Error as error:
            if error.code in ("NoSuchKey", "NoSuchBucket"):
                return None
            raise
        with contextlib.closing(response):
            data: bytes = response.read()
            response.release_conn()
    return data


def write_bytes(uri: str, data: bytes) -> None:
    """Replace one object or file with these bytes in one step: a reader sees the old ones or the new ones."""
    if is_s3(uri):
        bucket, key = _split(uri)
        with _telling(uri) as client:
            client.put_object(bucket_name=bucket, object_name=key, data=io.BytesIO(data), length=len(data))
        return
    write_atomic(Path(uri), data)


def _objects(uri: str) -> list[Any]:
    bucket, key = _split(uri)
    with _telling(uri) as client:
        found = [
            item for item in client.list_objects(bucket_name=bucket, prefix=key, recursive=True) if not item.is_dir
        ]
    # The prefix "runs/a" also lists "runs/ab": keep the object itself and what lies below it.
    return [item for item in found if not key or item.object_name == key or item.object_name.startswith(key + "/")]


def exists(uri: str) -> bool:
    """Whether a file, folder, object or prefix is there."""
    return bool(_objects(uri)) if is_s3(uri) else Path(uri).exists()


def fetch(uri: str | Path) -> Path:
    """The local path of `uri`: itself when local, else a copy in the cache that is brought up to date.

    An object or a whole prefix may be named. What is on disk in the very version that S3 has is not fetched again, and
    what S3 no longer has goes. InputError when nothing is there.
    """
    if not is_s3(uri):
        path = Path(uri)
        if not path.exists():
            raise InputError(f"{uri}: no such file or folder")
        return path
    uri = str(uri)
    bucket, key = _split(uri)
    objects = _objects(uri)
    if not objects:
        raise InputError(f"{uri}: nothing there")
    root = _settings().cache / bucket
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
        with _telling(f"s3://{bucket}/{item.object_name}") as client:
            try:
                client.fget_object(bucket_name=bucket, object_name=item.object_name, file_path=str(path))
            except BaseException:
                # What was begun would keep a full disk full.
                for begun in path.parent.glob(f"{glob.escape(path.name)}.*.part.minio"):
                    begun.unlink(missing_ok=True)
                raise
        _mark(path, item)

    with _alone(bucket):
        for path in target.rglob("*") if target.is_dir() else ():
            unfinished = any(map(is_unfinished, path.relative_to(root).parts))  # of a running step
            if path.is_file() and path not in wanted and not unfinished:
                path.unlink()
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(get, wanted))
    return target


def _stamp(item: Any) -> int:
    """The modification time (ns) of an object's copy: its microseconds come from the etag, since S3 gives seconds and
    two versions of one size may be as old as each other."""
    return int(item.last_modified.timestamp()) * 10**9 + zlib.crc32(str(item.etag).strip('"').encode()) % 10**6 * 1000


def _mark(path: Path, item: Any) -> None:
    os.utime(path, ns=(_stamp(item), _stamp(item)))


@contextmanager
def _alone(bucket: str) -> Iterator[None]:
    """One process at a time brings a bucket's part of the cache up to date."""
    cache = _settings().cache
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{bucket}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def publish(path: Path, uri: str, *, replace: bool = False) -> None:
    """Upload a file or a folder to `uri`; an artifact's card goes last and stale objects of an earlier one go first.

    Large files go up in parts, each with a checksum that S3 verifies, and what fails is tried again with growing waits.
    Files of an artifact that an earlier, interrupted upload has left there whole are not sent again: their sha256 tells.
    InputError when anything else lies below `uri`: it would go too. With `replace` only artifacts are spared there.
    """
    _publish(path, uri, replace)


def _publish(path: Path, uri: str, replace: bool = False) -> dict[str, tuple[Path, str]]:
    """As `publish`; the file and the etag of each object."""
    bucket, key = _split(uri)
    done: dict[str, tuple[Path, str]] = {}

    there = {item.object_name: item.size for item in _objects(uri)}
    digests = _card_digests(path)

    def put(file: Path, name: str) -> None:
        sha256 = digests.get(file.relative_to(path).as_posix()) if path.is_dir() else None
        with _telling(f"s3://{bucket}/{name}") as client:
            if sha256 is not None and there.get(name) == file.stat().st_size:
                found = client.stat_object(bucket_name=bucket, object_name=name)
                if (found.metadata or {}).get(f"x-amz-meta-{_DIGEST}") == sha256:
                    done[name] = (file, str(found.etag))
                    return
            result = client.fput_object(
                bucket_name=bucket,
                object_name=name,
                file_path=str(file),
                metadata={_DIGEST: sha256} if sha256 is not None else None,
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
    if cards and not replace:  # until the new card is there, only this tells that what lies there is an artifact's
        names = [name.removeprefix(below) for name in (*stale, *files)]
        write_bytes(f"s3://{bucket}/{unfinished}", json.dumps({"files": names}).encode())
        stale = [name for name in stale if name != unfinished]

    def remove(name: str) -> None:
        with _telling(uri) as client:
            client.remove_object(bucket_name=bucket, object_name=name)

    for name in sorted(stale, key=lambda name: PurePosixPath(name).name not in CARDS.values()):
        remove(name)
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda name: put(files[name], name), files.keys() - cards.keys()))
    if cards and not replace:
        remove(unfinished)
    for name, file in cards.items():
        put(file, name)
    return done


def _card_digests(folder: Path) -> dict[str, str]:
    """The sha256 of each file of a local artifact, as its card says; nothing for another folder."""
    for name in CARDS.values():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            files = json.loads((folder / name).read_bytes())["files"]
            return {file: str(facts["sha256"]) for file, facts in files.items()}
    return {}


def _check_foreign(uri: str, stale: Collection[str], replace: bool = False) -> None:
    """Refuse to remove objects below `uri` that the artifact there does not list; with `replace`, only others' cards."""
    _, key = _split(uri)
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
            f"{uri}: holds {foreign[0]}, which is not of an artifact there and would be removed; choose another place"
        )


@contextmanager
def destination(uri: str | Path, inputs: Sequence[str | Path] = ()) -> Iterator[Path]:
    """A local path to write an artifact to: `uri` itself, or a place in the cache that is published when the block ends well.

    What an earlier run left at an `s3://` place is fetched first, so that a step can see that its work is already done.
    InputError, before any work, when one of `inputs` or anything else than an artifact would be lost there.
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
    bucket, key = _split(uri)
    local = _settings().cache / bucket / key
    before = _card_bytes(uri)
    there = [item.object_name for item in _objects(uri)]
    if before is not None:
        _check_foreign(uri, there)
        fetch(uri)
    else:  # perhaps an unfinished upload; that is known when the artifact is made
        _check_foreign(uri, there, replace=True)
    try:
        check_replaceable(local)
    except InputError:  # copies only, of what S3 no longer has or has as something else
        local.unlink() if local.is_file() else shutil.rmtree(local)
    yield local
    if before is None or _local_card(local) != before or not _is_whole(local, uri):
        done = _publish(local, uri)
        for item in _objects(uri):  # the next step need not fetch what this one made
            file, etag = done.get(item.object_name, (None, ""))
            if file is not None and etag.strip('"') == str(item.etag).strip('"'):
                _mark(file, item)


def _lies_in(item: str | Path, uri: str | Path) -> bool:
    """Whether `item` is the place `uri` or lies below it."""
    if is_s3(item) != is_s3(uri):
        return False
    if not is_s3(uri):
        return Path(item).resolve().is_relative_to(Path(uri).resolve())
    (bucket, key), (other, above) = _split(str(item)), _split(str(uri))
    return bucket == other and (not above or f"{key}/".startswith(f"{above}/"))


def _is_whole(local: Path, uri: str) -> bool:
    """Whether S3 has every file of a local artifact, as long as it is here."""
    _, key = _split(uri)
    sizes = {item.object_name.removeprefix(f"{key}/" if key else ""): item.size for item in _objects(uri)}
    return all(
        sizes.get(file.relative_to(local).as_posix()) == file.stat().st_size
        for file in local.rglob("*")
        if file.is_file()
    )


def _card_bytes(uri: str) -> bytes | None:
    return next((data for name in CARDS.values() if (data := read_bytes(join(uri, name))) is not None), None)


def _local_card(path: Path) -> bytes | None:
    return next((file.read_bytes() for name in CARDS.values() if (file := path / name).is_file()), None)
