"""What holds for the package as a whole: no telemetry, one version."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.places import ROOT

import eolgul
from eolgul import TELEMETRY_OFF


def test_telemetry_is_off_before_a_dependency_can_be_imported() -> None:
    """Only the variables, set before the import, stop ONNX Runtime and BentoML."""
    assert TELEMETRY_OFF.items() <= os.environ.items()
    statements = ast.parse(Path(eolgul.__file__).read_text()).body
    imported = {alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in statements if isinstance(node, ast.ImportFrom)}
    assert imported == {"os", "importlib"}  # nothing of ours, nor what could bring in a dependency, comes before it


def test_telemetry_is_off_in_every_image() -> None:
    files = list((ROOT / "docker").glob("*.Dockerfile"))
    assert len(files) >= 7
    for file in files:
        words = file.read_text().split()
        for name, value in TELEMETRY_OFF.items():
            assert f"{name}={value}" in words, (file.name, name)


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every container of the manifests, with its file."""
    for file in sorted((ROOT / "k8s").rglob("*.yaml")):
        for item in yaml.safe_load_all(file.read_text()):
            template = ((item or {}).get("spec") or {}).get("template") or {}
            for container in (template.get("spec") or {}).get("containers", []):
                yield file.name, container


def test_telemetry_is_off_in_every_manifest() -> None:
    seen = set()
    for file, container in containers():
        env = {one["name"]: one.get("value") for one in container.get("env", [])}
        image = str(container.get("image", "")).partition(":")[0]
        if image == "eolgul/serving" and container.get("ports"):  # the Job beside it imports neither dependency
            assert TELEMETRY_OFF.items() <= env.items(), file
        elif image == "minio/minio":
            assert (
                env["MINIO_UPDATE"] == "off"
            )  # the look for a new version; its call home is off until it is switched on
        seen.add(image)
    assert {"eolgul/serving", "minio/minio", "redis", "chrislusf/seaweedfs"} <= seen


def test_every_seaweedfs_is_started_without_telemetry() -> None:
    """Its master reports to its maker unless told not to."""
    files = [ROOT / "src/eolgul/demo/embedded.py", *(ROOT / "k8s").rglob("*.sh"), *(ROOT / "k8s").rglob("*.yaml")]
    starting = [file for file in files if "-master.volumeSizeLimitMB" in file.read_text()]
    assert len(starting) == 2
    for file in starting:
        assert "-master.telemetry=false" in file.read_text(), file


def test_every_task_of_the_pipeline_has_the_switches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eolgul.pipelines.compiled import compile_to

    monkeypatch.setenv("EOLGUL_IMAGE_PREFIX", "registry.example/eolgul")
    compile_to(tmp_path / "pipeline.yaml")
    specification, *_ = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())
    executors = specification["deploymentSpec"]["executors"]
    ours = {name: one["container"] for name, one in executors.items() if "importer" not in one}
    assert len(ours) > 6
    for name, container in ours.items():
        for switch, value in TELEMETRY_OFF.items():
            assert {"name": switch, "value": value} in container.get("env", []), name


def test_the_version_is_the_installed_packages() -> None:
    assert eolgul.__version__ == metadata.version("eolgul")
