"""What holds for the package as a whole: no telemetry, one version."""

from __future__ import annotations

import ast
import os
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from support.places import ROOT

import eolgul

SWITCH = "ORT_DISABLE_TELEMETRY"


def test_telemetry_is_off_before_onnx_runtime_can_be_imported() -> None:
    """ONNX Runtime's wheels send telemetry from 1.29 on; only this variable, set before the import, stops it."""
    assert os.environ[SWITCH] == "1"
    statements = ast.parse(Path(eolgul.__file__).read_text()).body
    imported = {alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in statements if isinstance(node, ast.ImportFrom)}
    assert imported == {"os", "importlib"}  # nothing of ours, nor what could bring in ONNX Runtime, comes before it


def test_telemetry_is_off_in_every_image_manifest_and_task() -> None:
    for file in (ROOT / "docker").glob("*.Dockerfile"):
        assert f"{SWITCH}=1" in file.read_text(), file.name
    deployments = [
        item
        for file in (ROOT / "k8s" / "base").glob("*.yaml")
        for item in yaml.safe_load_all(file.read_text())
        if item and item.get("kind") == "Deployment" and item["metadata"]["name"] == "serving"
    ]
    [container] = deployments[0]["spec"]["template"]["spec"]["containers"]
    assert {"name": SWITCH, "value": "1"} in container["env"]


def test_every_task_of_the_pipeline_has_the_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eolgul.pipelines.compiled import compile_to

    monkeypatch.setenv("EOLGUL_IMAGE_PREFIX", "registry.example/eolgul")
    compile_to(tmp_path / "pipeline.yaml")
    specification, *_ = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())
    executors = specification["deploymentSpec"]["executors"]
    ours = {name: one["container"] for name, one in executors.items() if "importer" not in one}
    assert len(ours) > 6
    for name, container in ours.items():
        assert {"name": SWITCH, "value": "1"} in container.get("env", []), name


def test_the_version_is_the_installed_packages() -> None:
    assert eolgul.__version__ == metadata.version("eolgul")
