"""Fixtures: a real Redis, real BentoML services over HTTP, tiny models, and faces of people who do not exist."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support import tiny_package
from support.beside_service import people, redis_server
from support.page import chromium
from support.serving import MAX_IMAGE_BYTES, RedisServer, Service, serve

from eolgul.faces.networks import export_onnx
from eolgul.model.package import ModelPackage

__all__ = ["people", "redis_server"]
# A busy test machine must not look like a slow Redis.
PATIENT_REDIS: dict[str, Any] = {"redis_timeout_s": 0.4, "redis_pause_s": 0.3}


@pytest.fixture(scope="session")
def detector_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    export_onnx(folder)
    return folder


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory, detector_folder: Path) -> ModelPackage:
    folder = tmp_path_factory.mktemp("models") / "one"
    return tiny_package.write(folder, detector_folder, seed=0, region=tiny_package.REGION)


@pytest.fixture(scope="session")
def other_package(tmp_path_factory: pytest.TempPathFactory, detector_folder: Path) -> ModelPackage:
    return tiny_package.write(tmp_path_factory.mktemp("models") / "other", detector_folder, seed=1)


@pytest.fixture(scope="session")
def service(
    package: ModelPackage, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("bentoml")
    settings: dict[str, Any] = {"max_image_bytes": MAX_IMAGE_BYTES, "concurrency": 2, **PATIENT_REDIS}
    yield from serve(package, redis_server.url, home, **settings)


@pytest.fixture(scope="session")
def other_service(
    other_package: ModelPackage, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Another model with the same Redis; it takes one request at a time."""
    yield from serve(
        other_package, redis_server.url, tmp_path_factory.mktemp("bentoml"), concurrency=1, queue=0, **PATIENT_REDIS
    )


@pytest.fixture
def fresh() -> Callable[[bytes], bytes]:
    """Encode a picture in bytes that no cache has seen, by a PNG text chunk with a random number."""
    from PIL.PngImagePlugin import PngInfo

    def encode(data: bytes) -> bytes:
        info = PngInfo()
        info.add_text("once", os.urandom(8).hex())
        buffer = io.BytesIO()
        Image.open(io.BytesIO(data)).save(buffer, "PNG", pnginfo=info)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def many_scans() -> bytes:
    """A progressive JPEG of 16 megapixels whose last scan, 31 bytes, is repeated a thousand times."""
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 4000), (120, 130, 140)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 1000 + data[-2:]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright.sync_api")
    with chromium() as browser:
        yield browser
