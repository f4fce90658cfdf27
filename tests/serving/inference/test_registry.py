"""The model comes from the registry: verified, waited for, and named in every answer."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from support.serving import People, free_port

from eolgul.artifact import canonical_json
from eolgul.errors import InputError
from eolgul.model.package import ModelPackage
from eolgul.serving import launch
from eolgul.serving.inference import loader
from eolgul.serving.inference.model import open_package
from eolgul.serving.settings import Settings


def publish(package: ModelPackage, registry: Path) -> None:
    """What `eolgul.registry.promote` leaves behind, without the evaluation that it asks for."""
    shutil.copytree(package.path, registry / "models" / package.digest)
    pointer: dict[str, Any] = {
        "digest": package.digest,
        "promoted_at": "2026-01-01T00:00:00+00:00",
        "previous": None,
        "reasons": [],
    }
    (registry / "production.json").write_bytes(canonical_json(pointer))


def test_the_production_model_is_opened(package: ModelPackage, tmp_path: Path) -> None:
    publish(package, tmp_path)
    assert open_package(Settings(registry=str(tmp_path))).digest == package.digest


def test_an_empty_registry_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model has been promoted"):
        open_package(Settings(registry=str(tmp_path)))


def test_an_outage_is_said_again_while_it_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [0], []
    monkeypatch.setattr(loader, "time", SimpleNamespace(monotonic=lambda: float(now[0])))
    monkeypatch.setattr(loader.logger, "error", lambda form, *words, **_: said.append(form % words))
    loading = loader.Loader(Settings(registry=str(tmp_path)))
    for now[0] in range(0, 1000, 100):
        loading.update()
    assert len(said) == 4 and all("no model has been promoted yet" in line for line in said)  # 0, 300, 600, 900 s


@pytest.mark.parametrize("name", ["model.onnx", "detector/onet.onnx", "calibration.json"])
def test_a_changed_file_is_refused(package: ModelPackage, tmp_path: Path, name: str) -> None:
    publish(package, tmp_path)
    file = tmp_path / "models" / package.digest / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="sha256"):
        open_package(Settings(registry=str(tmp_path)))


@pytest.mark.process
def test_alive_but_not_ready_until_something_is_promoted(package: ModelPackage, people: People, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    registry.mkdir()
    port = free_port()
    argv, env = launch.command(port=port, registry=str(registry), home=tmp_path / "home")
    process = subprocess.Popen(argv, env=env | {"EOLGUL_RETRY_S": "0.2", "EOLGUL_AUTH": "off"}, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        with pytest.raises(InputError, match="no model has been promoted"):
            launch.wait_ready(url, process, 30)
        assert httpx.get(f"{url}/livez").status_code == 200
        unready = httpx.get(f"{url}/readyz")
        assert unready.status_code == 503 and unready.json()["code"] == "model_not_ready"
        refused = httpx.post(f"{url}/v1/embed", files={"image": people.a1})
        assert refused.status_code == 503 and refused.json()["code"] == "model_not_ready"
        assert str(registry) not in refused.text  # where models lie is the operator's business
        assert httpx.get(f"{url}/v1/models/current").json()["code"] == "model_not_ready"
        publish(package, registry)
        deadline = time.monotonic() + 15
        while httpx.get(f"{url}/readyz").status_code != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        answer = httpx.post(f"{url}/v1/embed", files={"image": people.a1})
        assert answer.status_code == 200 and answer.json()["model"] == package.digest
        assert answer.json()["cached"] is False  # no Redis: nothing is claimed
    finally:
        launch.stop(process)
