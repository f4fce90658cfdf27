"""The version is written in pyproject.toml; the manifests hold a copy that `make version` makes, and no other file holds it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib

import pytest
import yaml
from support.places import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
KUSTOMIZATION = ROOT / "k8s" / "base" / "kustomization.yaml"
# Files whose text names our images or ourselves. constraints.txt and CHANGELOG.md may hold the same digits for other reasons.
PLACES = ("Makefile", "README.md", "README.ko.md", "docker", "k8s", "components", "pipelines", "serving", "src", ".ci")


def test_the_manifests_hold_the_version_of_pyproject():
    [image] = yaml.safe_load(KUSTOMIZATION.read_text())["images"]
    assert image == {"name": "eolgul/serving", "newTag": VERSION}, "run `make version`"


def test_no_other_file_holds_it():
    pattern = re.compile(rf"(?<![\d.]){re.escape(VERSION)}(?![\d.])")
    files = [
        path for place in PLACES for path in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*"))
    ]
    written = ("eolgul.egg-info", "__pycache__")  # by an installation and by Python
    files = [path for path in files if path.is_file() and not set(written) & set(path.parts)]
    texts = [path for path in files if path.suffix != ".png" and path != KUSTOMIZATION]
    assert len(texts) > 100
    assert not [str(path) for path in texts if pattern.search(path.read_text(errors="replace"))]


def test_make_version_copies_it(tmp_path):
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    (tmp_path / "k8s" / "base").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text().replace(VERSION, "9.8.7rc1", 1))
    copy = tmp_path / "k8s" / "base" / "kustomization.yaml"
    copy.write_text(KUSTOMIZATION.read_text())
    subprocess.run(["make", "-s", "version"], cwd=tmp_path, check=True)
    assert copy.read_text() == KUSTOMIZATION.read_text().replace(f'"{VERSION}"', '"9.8.7rc1"')


def test_the_licence_files_are_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE", "NOTICE"]
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert "MIT License" in (ROOT / "NOTICE").read_text()
