"""The overlay's SeaweedFS, started for real by its script: who may do what, and what a rotated key opens."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.load import until
from support.places import ROOT

from eolgul.demo.embedded import free_ports

SCRIPT = ROOT / "k8s" / "components" / "seaweedfs" / "seaweedfs-start.sh"
REGISTRY = "s3://eolgul/registry"
ACCOUNTS = {
    "MINIO_ROOT": ("USER", "PASSWORD"),
    "SERVING_S3": ("ACCESS_KEY", "SECRET_KEY"),
    "PIPELINE_S3": ("ACCESS_KEY", "SECRET_KEY"),
}


def secrets_of(generation: str) -> dict[str, str]:
    return {
        f"{who}_{part}": f"{who.lower()}-{part.lower()}-{generation}"
        for who, parts in ACCOUNTS.items()
        for part in parts
    }


def client(port: int, secrets: dict[str, str], who: str) -> Any:
    import urllib3
    from minio import Minio

    key, secret = (secrets[f"{who}_{part}"] for part in ACCOUNTS[who])
    pool = urllib3.PoolManager(timeout=10, retries=urllib3.Retry(0))
    return Minio(
        endpoint=f"127.0.0.1:{port}",
        access_key=key,
        secret_key=secret,
        secure=False,
        region="us-east-1",
        http_client=pool,
    )


@contextlib.contextmanager
def started(folder: Path, secrets: dict[str, str]) -> Iterator[int]:
    """The store with these accounts, over what `folder` holds; its S3 port."""
    binary = Path(sys.executable).parent / "weed"
    if not binary.is_file():
        pytest.skip("SeaweedFS is not installed (extra `embedded`)")
    (folder / "data").mkdir(exist_ok=True)
    ports = free_ports(8)
    roles = [f"{role}.port{kind}" for kind in ("", ".grpc") for role in ("s3", "master", "volume", "filer")]
    options = [f"-{role}={port}" for role, port in zip(roles, ports, strict=True)]
    environment = {
        "PATH": f"{binary.parent}:/usr/bin:/bin",
        "EOLGUL_REGISTRY": REGISTRY,
        "BIND": "127.0.0.1",
        "HOME": str(folder),
    }
    environment |= {
        "ACCOUNTS_FILE": str(folder / "s3.json"),
        "DATA_DIR": str(folder / "data"),
        "PORT": str(ports[0]),
    } | secrets
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["sh", SCRIPT, *options[1:]], env=environment, cwd=folder, stdout=log, stderr=log)
    try:

        def answers() -> bool:
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", ports[0]), 1) as link:
                link.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                return b"200" in link.recv(100).split(b"\r\n")[0]
            return False

        until(answers, 60)
        yield ports[0]
    finally:
        process.kill()
        process.wait()


def refused(call: Any, *arguments: Any, **options: Any) -> bool:
    from minio.error import S3Error

    try:
        result = call(*arguments, **options)
        if hasattr(result, "__next__"):
            list(result)
    except S3Error as error:
        return error.code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
    return False


def there_soon(store: Any, key: str) -> bytes:
    """An object, once the store that was started again has found its volumes: until then it answers InternalError."""
    from minio.error import S3Error

    found = b""

    def read() -> bool:
        nonlocal found
        try:
            found = store.get_object(bucket_name="eolgul", object_name=key).data
        except S3Error as error:
            assert error.code == "InternalError", error
            return False
        return True

    until(read, 60)
    return found


def put(store: Any, key: str, bucket: str = "eolgul") -> None:
    store.put_object(bucket_name=bucket, object_name=key, data=io.BytesIO(b"x"), length=1)


def test_accounts_have_their_rights_and_end_with_a_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("minio_setup", ROOT / "k8s" / "base" / "minio_setup.py")
    assert spec is not None and spec.loader is not None
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    first, second = secrets_of("first"), secrets_of("second")
    with started(tmp_path, first) as port:
        assert (tmp_path / "s3.json").stat().st_mode & 0o077 == 0
        job = {"EOLGUL_S3_ENDPOINT": f"127.0.0.1:{port}", "EOLGUL_S3_SECURE": "false", "EOLGUL_S3_REGION": "us-east-1"}
        for name, value in {**job, "EOLGUL_REGISTRY": REGISTRY, **first}.items():
            monkeypatch.setenv(name, value)
        setup.main(bucket_only=True)
        setup.main(bucket_only=True)  # a second deploy
        serving, pipeline = client(port, first, "SERVING_S3"), client(port, first, "PIPELINE_S3")
        for key in (
            "registry/models/d/model.onnx",
            "registry/production.json",
            "registry/history.jsonl",
            "datasets/kface/0.tar",
        ):
            put(pipeline, key)
        for key in ("registry/models/d/model.onnx", "registry/production.json"):
            assert serving.get_object(bucket_name="eolgul", object_name=key).data == b"x"
        assert [one.object_name for one in serving.list_objects(bucket_name="eolgul", prefix="registry/models/d/")]
        for key in ("registry/history.jsonl", "datasets/kface/0.tar"):
            assert refused(serving.get_object, bucket_name="eolgul", object_name=key), key
        assert refused(put, serving, "registry/production.json")
        assert refused(serving.remove_object, bucket_name="eolgul", object_name="registry/production.json")
        assert refused(pipeline.make_bucket, bucket_name="another")
        client(port, first, "MINIO_ROOT").make_bucket(bucket_name="another")
        assert refused(put, pipeline, "x", "another") and refused(serving.list_objects, bucket_name="another")
        pipeline.remove_object(bucket_name="eolgul", object_name="datasets/kface/0.tar")
    with started(tmp_path, second) as port:
        for who in ACCOUNTS:
            assert refused(
                client(port, first, who).get_object, bucket_name="eolgul", object_name="registry/production.json"
            ), who
        assert there_soon(client(port, second, "SERVING_S3"), "registry/production.json") == b"x"


@pytest.mark.parametrize(
    ("name", "value"), [("SERVING_S3_SECRET_KEY", 'a"b'), ("MINIO_ROOT_USER", ""), ("EOLGUL_REGISTRY", "s3://")]
)
def test_a_bad_start_is_said(tmp_path: Path, name: str, value: str) -> None:
    environment = {"PATH": "/usr/bin:/bin", "ACCOUNTS_FILE": str(tmp_path / "s3.json"), "EOLGUL_REGISTRY": REGISTRY}
    done = subprocess.run(
        ["sh", SCRIPT], env=environment | secrets_of("x") | {name: value}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "seaweedfs-start: " in done.stderr and not (tmp_path / "s3.json").exists()
