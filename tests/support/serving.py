"""Helpers of the tests of serving: pictures, a real Redis, a running service."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from eolgul.model.package import ModelPackage
from eolgul.serving import launch

MAX_IMAGE_BYTES = 1 << 20  # small, so that the tests of the cap are quick


@dataclass(frozen=True)
class People:
    """Pictures as PNG: person A twice, person B once."""

    a1: bytes
    a2: bytes
    b1: bytes


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """A real Redis on its own port that can be killed, paused and started again."""

    def __init__(self, executable: str, *options: str) -> None:
        self._executable, self._options = executable, options
        self.port = free_port()
        while options and self.port > 55_000:  # a cluster's servers talk to each other 10,000 above it
            self.port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="redis-")  # a replica writes what it gets to a file
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        options += ["--dir", self._folder.name, *self._options]
        self.process = subprocess.Popen([self._executable, *options], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError("redis did not start")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass
class Service:
    """A running service: an HTTP client and its metrics."""

    client: httpx.Client

    def verify(self, left: bytes, right: bytes) -> httpx.Response:
        return self.client.post("/v1/verify", files={"image1": ("x", left), "image2": ("y", right)})

    def embed(self, image: bytes) -> httpx.Response:
        return self.client.post("/v1/embed", files={"image": ("x", image)})

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample, 0 if there is none yet."""
        for family in text_string_to_metric_families(self.client.get("/metrics").text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return 0.0


# Sets of scopes for which `KeyedService` has a key: whether an endpoint asks for what it says is tried with them.
SCOPED: tuple[tuple[str, ...], ...] = (
    ("verify",), ("embed",), ("identify",), ("gallery",), ("enroll",), ("admin",),
    ("verify", "embed"), ("verify", "gallery"), ("enroll", "gallery"),
)  # fmt: skip


@dataclass
class KeyedService:
    """A running service with an API key per name and one per set of scopes, its audit log, and its two Redis servers."""

    service: Service
    keys: dict[str, str]
    audit: Path
    cache: RedisServer
    gallery: RedisServer
    scoped: dict[tuple[str, ...], str] = field(default_factory=dict)

    def key(self, scopes: tuple[str, ...]) -> str:
        """A key of the tenant `one` with these scopes, one of `SCOPED`."""
        return self.scoped[scopes]

    def call(self, name: str | None, method: str, path: str, **options: object) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.keys[name]}"} if name else {}
        return self.service.client.request(method, path, headers=headers, **options)  # type: ignore[arg-type]

    def enroll(self, name: str, person: str, image: bytes) -> httpx.Response:
        return self.call(name, "POST", "/v1/enroll", data={"person": person}, files={"images": image})


def serve(
    package: ModelPackage, redis_url: str, folder: Path, *, output: IO[bytes] | None = None, **settings: Any
) -> Generator[Service]:
    environment = (
        dict(os.environ)
        | {"EOLGUL_AUTH": "off", "EOLGUL_REQUESTS_PER_MINUTE": "0"}
        | {f"EOLGUL_{name.upper()}": str(value) for name, value in settings.items()}
    )
    options: dict[str, Any] = {
        "model": package.path,
        "redis_url": redis_url,
        "home": folder,
        "environment": environment,
        "output": output,
    }
    with (
        launch.running(port=free_port(), **options) as running,
        httpx.Client(base_url=running.url, timeout=30) as client,
    ):
        yield Service(client)
