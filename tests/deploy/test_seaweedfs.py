"""The overlay's SeaweedFS, started for real by its script: who may do what, and what a rotated key opens."""

from __future__ import annotations

import importlib.util
import io
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.deployed import ACCOUNTS, REGISTRY, SCRIPT, client, refused, secrets_of, started
from support.load import until
from support.places import ROOT


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
