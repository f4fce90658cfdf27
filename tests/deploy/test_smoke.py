"""deploy.sh and a real service: it follows its /readyz and its log, and asks it at the end with the key that it made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import cluster as stand_in
from support import tiny_package
from support.load import until
from support.serving import free_port

from eolgul.artifact import canonical_json
from eolgul.faces.networks import export_onnx
from eolgul.model.package import ModelPackage


@dataclass
class Deployed:
    """A real service that stands behind the stand-in of a cluster, and the folder whose secrets it was given."""

    url: str
    log: Path
    registry: Path
    checkout: Path


@pytest.fixture(scope="module")
def checkout_of_service(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support.places import ROOT

    folder = tmp_path_factory.mktemp("checkout")
    theirs = shutil.ignore_patterns("secrets.env", "api-keys.json", "encryption-keys", "api-key")
    shutil.copytree(ROOT / "k8s", folder / "k8s", ignore=theirs)
    subprocess.run([folder / "k8s" / "deploy.sh", "--secrets"], check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="module")
def deployed(checkout_of_service: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    folder, port = tmp_path_factory.mktemp("service"), free_port()
    registry, keys = folder / "registry", checkout_of_service / "k8s" / "overlays" / "local"
    registry.mkdir()
    environment = os.environ | {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "EOLGUL_WAIT": "true",
        "EOLGUL_REGISTRY": str(registry),
        "EOLGUL_RETRY_S": "0.3",
        "EOLGUL_API_KEYS_FILE": str(keys / "api-keys.json"),
        "EOLGUL_ENCRYPTION_KEYS_FILE": str(keys / "encryption-keys"),
    }
    command = [sys.executable, "-c", "from eolgul.cli import main; main()", "serve", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until(lambda: "not ready: " in (folder / "log").read_text() or process.poll() is not None, 60)
        assert process.poll() is None, (folder / "log").read_text()
        yield Deployed(f"http://127.0.0.1:{port}", folder / "log", registry, checkout_of_service)
    finally:
        process.terminate()
        process.wait(40)


def test_from_no_model_to_the_first_answer(deployed: Deployed, run_deploy: Any, tmp_path: Path) -> None:
    with stand_in.running() as cluster:
        cluster.service = (deployed.url, deployed.log)
        forward = {"FORWARD_TO": deployed.url.removeprefix("http://")}
        first = run_deploy(deployed.checkout, cluster, **forward)
        assert first.returncode == 0, first.stderr
        assert "without a model yet" in first.stdout and "the key is accepted; there is no model yet" in first.stdout
        stranger = run_deploy(deployed.checkout, cluster, EOLGUL_API_KEY="eolgul_no_body", SMOKE_TRIES="1", **forward)
        assert stranger.returncode == 1 and "refuses the key (401)" in stranger.stderr

        export_onnx(tmp_path / "detector")
        package = tiny_package.write(tmp_path / "model", tmp_path / "detector", seed=0)
        publish(package, deployed.registry)
        until(lambda: httpx.get(f"{deployed.url}/readyz").status_code == 200, 30)
        second = run_deploy(deployed.checkout, cluster, **forward)
        assert second.returncode == 0, second.stderr
        assert f"model {package.digest[:12]}" in second.stdout
        assert "as expected, no face in a grey picture" in second.stdout
        key = (deployed.checkout / "k8s" / "overlays" / "local" / "api-key").read_text().strip()
        assert key not in second.stdout + second.stderr


def publish(package: ModelPackage, registry: Path) -> None:
    shutil.copytree(package.path, registry / "models" / package.digest)
    pointer: dict[str, Any] = {"digest": package.digest, "promoted_at": "2026-01-01T00:00:00+00:00"}
    (registry / "production.json").write_bytes(canonical_json(pointer | {"previous": None, "reasons": []}))
