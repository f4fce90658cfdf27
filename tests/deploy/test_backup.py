"""The drill: the bucket and the gallery are backed up, destroyed, every secret is rotated, both are restored, and counted."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from support.deployed import ACCOUNTS, StartedRedis, client, refused, started

from eolgul.serving.gallery.store import Gallery
from eolgul.serving.gallery.templates import NewTemplate
from eolgul.serving.keyring import Keyring
from eolgul.serving.redis_link import RedisLink

OBJECTS = {
    "registry/production.json": b"{}",
    "registry/models/d/model.onnx": b"model",
    "datasets/kface/0.tar": b"tar" * 9,
}
PEOPLE = ("Hong Gil-dong", "김유신")


@dataclass
class Running:
    """What a deploy with these secrets runs."""

    store: int
    gallery: StartedRedis
    secrets: dict[str, str]


@contextlib.contextmanager
def running(folder: Path, secrets: dict[str, str]) -> Iterator[Running]:
    for name in ("store", "gallery"):
        (folder / name).mkdir(parents=True)
    gallery = StartedRedis("gallery", folder / "gallery", secrets["REDIS_PASSWORD"])
    with started(folder / "store", secrets) as port:
        client(port, secrets, "MINIO_ROOT").make_bucket(bucket_name="eolgul")
        gallery.start()
        try:
            yield Running(port, gallery, secrets)
        finally:
            gallery.end()


def secrets_in(folder: Path) -> dict[str, str]:
    lines = (folder / "secrets.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def in_gallery(at: Running, keys: Path, call: Callable[[Gallery], Any]) -> Any:
    async def run() -> Any:
        password = keys.parent / "redis-password"
        password.write_text(at.secrets["REDIS_PASSWORD"])
        link = RedisLink(
            f"redis://127.0.0.1:{at.gallery.port}/0",
            name="gallery",
            timeout_s=10,
            pause_s=1,
            username="eolgul",
            password_file=password,
        )
        gallery = Gallery(link, Keyring.read(keys))
        try:
            return await call(gallery)
        finally:
            await gallery.close()

    return asyncio.run(run())


async def enroll(gallery: Gallery) -> None:
    for name in PEOPLE:
        image = hashlib.sha256(name.encode()).hexdigest()
        await gallery.enroll("default", name, [NewTemplate("m", "c", np.eye(1, 8, dtype=np.float32)[0], image, {})])


def test_the_drill(checkout: Path, tools: Path, environment: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    overlay, copy = checkout / "k8s" / "overlays" / "production", tmp_path / "backup"
    calls = environment() | {"HOME": str(tmp_path), "PATH": f"{tools}:/usr/bin:/bin"}

    def script(name: str, *arguments: str, status: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        argv = [str(checkout / "k8s" / name), *arguments]
        done = subprocess.run(argv, env=calls | more, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def backup(at: Running, what: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        places = {"FORWARD_SEAWEEDFS": f"127.0.0.1:{at.store}", "FORWARD_GALLERY": f"127.0.0.1:{at.gallery.port}"}
        return script("backup.sh", what, str(copy), "seaweedfs", status=status, **places)

    script("deploy.sh", "--secrets", "production")
    first = secrets_in(overlay)
    with running(tmp_path / "first", first) as at:
        pipeline = client(at.store, first, "PIPELINE_S3")
        for name, data in OBJECTS.items():
            pipeline.put_object(bucket_name="eolgul", object_name=name, data=io.BytesIO(data), length=len(data))
        in_gallery(at, overlay / "encryption-keys", enroll)
        counts = json.loads(backup(at, "backup").stdout)
        assert counts == {"people": 2, "templates": 2, "objects": 3, "bytes": sum(map(len, OBJECTS.values()))}
        assert json.loads((copy / "counts.json").read_text()) == counts
        assert not [path for path in copy.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
        kept = b"".join(path.read_bytes() for path in copy.rglob("*") if path.is_file())
        assert not [key for key, value in first.items() if value.encode() in kept]

    (overlay / "secrets.env").unlink()
    script("deploy.sh", "--secrets", "production")
    second = secrets_in(overlay)
    assert not set(first.values()) & set(second.values())
    with running(tmp_path / "second", second) as at:
        for who in ACCOUNTS:  # what was rotated opens nothing
            assert refused(client(at.store, first, who).list_objects, bucket_name="eolgul"), who
        with pytest.raises(redis.exceptions.AuthenticationError):
            redis.Redis(port=at.gallery.port, username="eolgul", password=first["REDIS_PASSWORD"]).get("x")
        assert json.loads(backup(at, "restore").stdout) == counts
        serving = client(at.store, second, "SERVING_S3")
        assert serving.get_object(bucket_name="eolgul", object_name="registry/models/d/model.onnx").data == b"model"
        page = in_gallery(at, overlay / "encryption-keys", lambda gallery: gallery.people("default"))
        assert {one.person for one in page.people} == set(PEOPLE)

        keys = overlay / "encryption-keys"
        lost = keys.read_text()
        keys.write_text("other:" + "A" * 43 + "=\n")
        assert "sealed with a key that is not in" in backup(at, "backup", status=1).stderr
        keys.write_text(lost)
        (copy / "counts.json").unlink()
        assert "not a whole backup" in backup(at, "restore", status=2).stderr
