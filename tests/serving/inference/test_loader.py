"""Following the registry's pointer: swaps under load, broken models refused, a registry that goes away."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.serving import People, Service, free_port

from eolgul.model.package import ModelPackage
from eolgul.serving import launch

SWAPS = 50


class Registry:
    """A registry in a folder whose pointer can be set."""

    def __init__(self, folder: Path, *packages: ModelPackage) -> None:
        self.folder = folder
        for package in packages:
            self.add(package)

    def add(self, package: ModelPackage) -> None:
        shutil.copytree(package.path, self.folder / "models" / package.digest)

    def point(self, digest: str) -> None:
        value: dict[str, Any] = {
            "digest": digest,
            "promoted_at": "2026-11-24T00:00:00+00:00",
            "previous": None,
            "reasons": [],
        }
        temporary = self.folder / "pointer.new"
        temporary.write_text(json.dumps(value))
        temporary.replace(self.folder / "production.json")


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def followed(
    tmp_path: Path, package: ModelPackage, other_package: ModelPackage
) -> Iterator[tuple[Service, Registry, Callable[[], str]]]:
    registry = Registry(tmp_path / "registry", package, other_package)
    registry.point(package.digest)
    environment = {"EOLGUL_AUTH": "off", "EOLGUL_REQUESTS_PER_MINUTE": "0", "EOLGUL_FOLLOW_S": "0.05"}
    import os

    options: dict[str, Any] = {
        "registry": str(registry.folder),
        "home": tmp_path / "home",
        "environment": {**os.environ, **environment},
    }
    with (
        launch.running(port=free_port(), **options) as running,
        httpx.Client(base_url=running.url, timeout=30) as client,
    ):
        yield Service(client), registry, lambda: client.get("/v1/models/current").json()["digest"]


def test_fifty_swaps_under_load_lose_no_request(
    followed: tuple[Service, Registry, Callable[[], str]],
    people: People,
    package: ModelPackage,
    other_package: ModelPackage,
) -> None:
    service, registry, current = followed
    ended = threading.Event()
    answers: list[tuple[int, str, float]] = []

    def ask() -> None:
        with httpx.Client(base_url=service.client.base_url, timeout=30) as client:
            while not ended.is_set():
                files = {"image1": ("x", people.a1), "image2": ("y", people.b1)}
                response = client.post("/v1/verify", files=files)
                answer = response.json()
                answers.append((response.status_code, answer.get("model", ""), answer.get("similarity", 0.0)))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        for number in range(SWAPS):
            wanted = (other_package, package)[number % 2].digest
            registry.point(wanted)
            until(lambda wanted=wanted: current() == wanted)  # type: ignore[misc]
    finally:
        ended.set()
        for client in clients:
            client.join()
    assert len(answers) > SWAPS and {status for status, _, _ in answers} == {200}
    by_model = {model: {round(score, 4) for _, one, score in answers if one == model} for _, model, _ in answers}
    assert set(by_model) == {package.digest, other_package.digest}
    assert all(len(scores) == 1 for scores in by_model.values()), by_model  # never one model's name on another's answer
    assert service.metric("eolgul_model_swaps_total", outcome="swapped") == SWAPS
    assert service.metric("eolgul_model_info", digest=package.digest) == 1
    assert service.metric("eolgul_model_info", digest=other_package.digest) == 0


def test_a_broken_model_is_refused_and_the_old_one_stays(
    followed: tuple[Service, Registry, Callable[[], str]],
    people: People,
    package: ModelPackage,
    other_package: ModelPackage,
) -> None:
    service, registry, current = followed
    network = registry.folder / "models" / other_package.digest / "model.onnx"
    whole = network.read_bytes()
    network.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    registry.point(other_package.digest)
    until(lambda: service.metric("eolgul_model_swaps_total", outcome="refused") >= 1)
    assert service.verify(people.a1, people.a1).json()["model"] == current() == package.digest
    assert service.client.get("/readyz").status_code == 200
    registry.point("0" * 64)  # nothing there
    until(lambda: service.metric("eolgul_model_swaps_total", outcome="refused") >= 2)
    (registry.folder / "production.json").write_text("no pointer")
    until(lambda: service.metric("eolgul_model_swaps_total", outcome="unreachable") >= 1)
    assert current() == package.digest
    network.write_bytes(whole)
    registry.point(package.digest)  # back, and forth to the repaired one
    time.sleep(0.2)
    registry.point("1" * 64)
    until(lambda: service.metric("eolgul_model_swaps_total", outcome="refused") >= 3)
    registry.point(other_package.digest)
    until(lambda: current() == other_package.digest)


def test_without_the_registry_the_last_model_is_served(tmp_path: Path, package: ModelPackage) -> None:
    import os

    registry = Registry(tmp_path / "registry", package)
    registry.point(package.digest)
    options: dict[str, Any] = {
        "registry": str(registry.folder),
        "home": tmp_path / "home",
        "environment": {**os.environ, "EOLGUL_AUTH": "off"},
    }
    with launch.running(port=free_port(), **options) as running:
        assert httpx.get(f"{running.url}/v1/models/current").json()["digest"] == package.digest
    (registry.folder / "production.json").write_text("no pointer")
    with launch.running(port=free_port(), **options) as running:
        assert httpx.get(f"{running.url}/v1/models/current").json()["digest"] == package.digest
    network = registry.folder / "models" / package.digest / "model.onnx"
    network.write_bytes(network.read_bytes()[:-1])
    with pytest.raises(Exception, match="registry"), launch.running(port=free_port(), **options):
        pass
