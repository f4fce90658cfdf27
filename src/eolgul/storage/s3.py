"""The S3 client: its settings, its errors as sentences, and small reads and writes, which also take local paths."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from eolgul.errors import InputError
from eolgul.files import write_atomic

THREADS = 8
_RETRIES = 5  # with waits of 0.3, 0.6, 1.2 … seconds


class S3Settings(BaseSettings):
    """The S3 server and its credentials, from EOLGUL_S3_ENDPOINT (host:port), …_ACCESS_KEY, …_SECRET_KEY, …; see README."""

    model_config = SettingsConfigDict(env_prefix="EOLGUL_S3_")

    endpoint: str = "127.0.0.1:9000"
    access_key: str = ""
    secret_key: SecretStr = SecretStr("")
    secure: bool = False
    region: str = "us-east-1"
    cache: Path = Path.home() / ".cache" / "eolgul" / "s3"


def is_s3(uri: str | Path) -> bool:
    """Whether a place is in S3."""
    return str(uri).startswith("s3://")


def join(uri: str, *parts: str) -> str:
    """The place `parts` below another, an `s3://` address or a local path."""
    if is_s3(uri):
        return "/".join([uri.rstrip("/"), *parts])
    return str(Path(uri).joinpath(*parts))


@lru_cache(maxsize=1)
def settings() -> S3Settings:
    """The settings, read once.

    Raises:
        InputError: when a variable has a value of the wrong type.
    """
    try:
        return S3Settings()
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"EOLGUL_S3_{str(first['loc'][0]).upper()}: {first['input']!r}, {first['msg']}") from error


@lru_cache(maxsize=1)
def http_pool() -> Any:
    """The connections to the server (`urllib3.PoolManager`), made once."""
    import urllib3

    # Every request may be repeated: objects are written whole, and a POST begins or ends the upload of one.
    retries = urllib3.Retry(
        total=_RETRIES,
        backoff_factor=0.3,
        backoff_jitter=0.3,
        status_forcelist=[500, 502, 503, 504],
        allowed_methods=None,
    )
    return urllib3.PoolManager(maxsize=2 * THREADS, retries=retries, timeout=urllib3.Timeout(connect=5, read=60))


@lru_cache(maxsize=1)
def minio_client() -> Any:
    """The SDK's client (`minio.Minio`), made once."""
    from minio import Minio

    return Minio(
        endpoint=settings().endpoint,
        access_key=settings().access_key or None,
        secret_key=settings().secret_key.get_secret_value() or None,
        secure=settings().secure,
        region=settings().region,
        http_client=http_pool(),
    )


def forget_settings() -> None:
    """Read the environment again at the next use (the demo starts its own S3 server and then names it there)."""
    settings.cache_clear()
    minio_client.cache_clear()
    http_pool.cache_clear()


def _forget_connections() -> None:
    """After a fork, in the child: two processes must not use one connection."""
    minio_client.cache_clear()
    http_pool.cache_clear()


os.register_at_fork(after_in_child=_forget_connections)


@contextmanager
def connect(uri: str) -> Iterator[Any]:
    """Yield the client; its errors become an InputError of one sentence that names the place."""
    from minio.error import MinioException, S3Error
    from urllib3.exceptions import HTTPError

    try:
        client = minio_client()
    except ValueError as error:
        raise InputError(f"EOLGUL_S3_ENDPOINT {settings().endpoint!r}: {error}, expected host:port") from error
    try:
        yield client
    except S3Error as error:
        raise InputError(f"{uri}: {error.code}, {error.message}") from error
    except (MinioException, HTTPError) as error:
        unset = "" if os.environ.get("EOLGUL_S3_ENDPOINT") else "; EOLGUL_S3_ENDPOINT is not set"
        why = getattr(error, "reason", None) or error  # of urllib3's MaxRetryError, which repeats the whole address
        raise InputError(f"{uri}: S3 at {settings().endpoint} does not answer as expected ({why}{unset})") from error
    except ValueError as error:  # of the SDK, about the bucket's or the object's name
        raise InputError(f"{uri}: {error}") from error


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` place.

    Raises:
        InputError: when it names no bucket.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise InputError(f"{uri}: expected s3://bucket/key")
    return bucket, key.strip("/")


def make_bucket(uri: str) -> None:
    """Create the bucket of `uri` unless it exists."""
    bucket, _ = split(uri)
    with connect(uri) as client:
        if not client.bucket_exists(bucket_name=bucket):
            client.make_bucket(bucket_name=bucket)


def read_bytes(uri: str) -> bytes | None:
    """The bytes of one small object or file; None when it does not exist."""
    if not is_s3(uri):
        path = Path(uri)
        return path.read_bytes() if path.is_file() else None
    from minio.error import S3Error

    bucket, key = split(uri)
    with connect(uri) as client:
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
    """Replace one object or file in one step: a reader sees the old bytes or the new ones."""
    if is_s3(uri):
        bucket, key = split(uri)
        with connect(uri) as client:
            client.put_object(bucket_name=bucket, object_name=key, data=io.BytesIO(data), length=len(data))
        return
    write_atomic(Path(uri), data)


def walk_objects(uri: str) -> Iterator[Any]:
    """The object `uri` and all objects below it, as the SDK describes them, in the order of S3's listing."""
    bucket, key = split(uri)
    with connect(uri) as client:
        for item in client.list_objects(bucket_name=bucket, prefix=key, recursive=True):
            # The prefix "runs/a" also lists "runs/ab": keep the object itself and what lies below it.
            if not item.is_dir and (not key or item.object_name == key or item.object_name.startswith(key + "/")):
                yield item


def list_objects_below(uri: str) -> list[Any]:
    """All that `walk_objects` yields."""
    return list(walk_objects(uri))


def is_object(uri: str) -> bool:
    """Whether an object lies at `uri` itself."""
    bucket, key = split(uri)
    with connect(uri) as client:
        found = client.list_objects(bucket_name=bucket, prefix=key)
        return any(item.object_name == key and not item.is_dir for item in found)


def cache_place(uri: str) -> Path:
    """Where the local copy of an object or prefix belongs."""
    bucket, key = split(uri)
    root = settings().cache / bucket
    return root / key if key else root


def describe(uri: str) -> Iterator[tuple[str, int, str]]:
    """Name below the parent, size and ETag of the object `uri` and of all below it, as S3 lists them."""
    _, key = split(uri)
    parent = key.rpartition("/")[0]
    for item in walk_objects(uri):
        yield str(item.object_name).removeprefix(f"{parent}/"), int(item.size), str(item.etag).strip('"')


def list_names(uri: str) -> list[str]:
    """The names of the folders and files directly below a place, sorted; none when it does not exist."""
    if not is_s3(uri):
        folder = Path(uri)
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    bucket, key = split(uri)
    below = f"{key}/" if key else ""
    with connect(uri) as client:
        if not client.bucket_exists(bucket_name=bucket):
            return []
        found = list(client.list_objects(bucket_name=bucket, prefix=below))
    names = {item.object_name.removeprefix(below).strip("/") for item in found}
    return sorted(names - {""})  # SeaweedFS lists the folder itself, which stays when it is empty


def exists(uri: str) -> bool:
    """Whether a file, folder, object or prefix exists."""
    return any(True for _ in walk_objects(uri)) if is_s3(uri) else Path(uri).exists()
