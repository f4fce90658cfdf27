"""S3 (MinIO and any other) and local paths behind one small interface.

Steps are functions of local paths. `source` brings an `s3://bucket/key` folder to the local disk before a step and
`destination` publishes what the step made after it, the card last: an S3 prefix that has its card is whole.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from eolgul.artifact import CARDS
from eolgul.errors import InputError

_THREADS = 8


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
    return S3Settings()


@lru_cache(maxsize=1)
def _client() -> Any:
    import urllib3
    from minio import Minio

    settings = _settings()
    retries = urllib3.Retry(total=3, backoff_factor=0.3, status_forcelist=[500, 502, 503, 504])
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
        yield _client()
    except S3Error as error:
        raise InputError(f"{uri}: {error.code}, {error.message}") from error
    except (MinioException, HTTPError, ValueError) as error:
        raise InputError(
            f"{uri}: S3 at {_settings().endpoint} does not answer as expected ({type(error).__name__}: {error})"
        ) from error


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
    path = Path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_bytes(data)
    temporary.replace(path)


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

    An object or a whole prefix may be named. Objects whose size and time are already on disk are not fetched again.
    InputError when nothing is there.
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
    for path in wanted:
        if ".." in path.parts:
            raise InputError(f"{uri}: holds the key {path.name!r} with '..' in it: refused")
    target = root / key if key else root
    if target.is_dir():
        for path in target.rglob("*"):
            if path.is_file() and path not in wanted:
                path.unlink()

    def get(path: Path) -> None:
        item = wanted[path]
        time = item.last_modified.timestamp()
        if path.is_file() and path.stat().st_size == item.size and abs(path.stat().st_mtime - time) < 1:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with _telling(f"s3://{bucket}/{item.object_name}") as client:
            client.fget_object(bucket_name=bucket, object_name=item.object_name, file_path=str(path))
        os.utime(path, (time, time))

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(get, wanted))
    return target


def publish(path: Path, uri: str) -> None:
    """Upload a file or a folder to `uri`; an artifact's card goes last and stale objects of an earlier one go first."""
    bucket, key = _split(uri)

    def put(file: Path, name: str) -> None:
        with _telling(f"s3://{bucket}/{name}") as client:
            client.fput_object(bucket_name=bucket, object_name=name, file_path=str(file))

    if path.is_file():
        put(path, key)
        return
    files = {f"{key}/{file.relative_to(path).as_posix()}": file for file in sorted(path.rglob("*")) if file.is_file()}
    cards = {name: file for name, file in files.items() if file.parent == path and file.name in CARDS.values()}
    stale = [item.object_name for item in _objects(uri) if item.object_name not in files or item.object_name in cards]
    for name in sorted(stale, key=lambda name: PurePosixPath(name).name not in CARDS.values()):
        with _telling(uri) as client:
            client.remove_object(bucket_name=bucket, object_name=name)
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda name: put(files[name], name), files.keys() - cards.keys()))
    for name, file in cards.items():
        put(file, name)


@contextmanager
def destination(uri: str | Path) -> Iterator[Path]:
    """A local path to write an artifact to: `uri` itself, or a place in the cache that is published when the block ends well.

    What an earlier run left at an `s3://` place is fetched first, so that a step can see that its work is already done.
    """
    if not is_s3(uri):
        yield Path(uri)
        return
    uri = str(uri)
    bucket, key = _split(uri)
    local = _settings().cache / bucket / key
    before = _card_bytes(uri)
    if before is not None:
        fetch(uri)
    yield local
    if before is None or _local_card(local) != before:
        publish(local, uri)


def _card_bytes(uri: str) -> bytes | None:
    return next((data for name in CARDS.values() if (data := read_bytes(join(uri, name))) is not None), None)


def _local_card(path: Path) -> bytes | None:
    return next((file.read_bytes() for name in CARDS.values() if (file := path / name).is_file()), None)
