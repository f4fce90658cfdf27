"""What installs the images' packages (docker/install.py): what it asks for, what it removes, what it says about the rest."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from support.places import ROOT


@pytest.fixture(scope="module")
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("image_install", ROOT / "docker" / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_extras_that_name_extras(install: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pipeline = install.requirements(["pipeline"])
    assert {"kfp", "kubeflow", "pyarrow", "numpy"} <= set(pipeline)
    for extra in project["optional-dependencies"]:
        assert not [line for line in install.requirements([extra]) if line.startswith("eolgul")], extra
    assert install.requirements([]) == sorted(project["dependencies"])


def test_what_is_removed(install: ModuleType, tmp_path: Path) -> None:
    keep = ["one/__init__.py", "one/testing.py", "one/_a.cpython-311-x86_64-linux-gnu.so", "one.libs/liba.so", "top.py",
            "pyarrow/lib.so", "pyarrow/libarrow.so.26", "torch/include/a.h", "onnxruntime/capi/_state.so",
            "one-1.dist-info/licenses/tests.txt"]  # fmt: skip
    remove = ["one/tests/__init__.py", "one/a/tests/data.bin", "one/__init__.pyi", "one/include/b.h", "one/x.pyx",
              "pyarrow/libarrow_flight.so.26", "pyarrow/_s3fs.cpython-311.so",
              "onnxruntime/capi/libonnxruntime.so.1"]  # fmt: skip
    for name in [*keep, *remove]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    install.trim(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(keep)


def test_nothing_of_ours_imports_what_is_removed(install: ModuleType) -> None:
    """pyarrow's parts by the names of their modules; the others by their folders."""
    removed = {re.sub(r"\.\*.*|\.so.*", "", name.replace("/_", "/")).replace("/", ".") for name in install.UNUSED}
    removed = {name for name in removed if "lib" not in name} | {"pyarrow.fs.S3FileSystem"}
    assert {"pyarrow.flight", "Crypto.SelfTest"} <= removed
    sources = [*ROOT.glob("src/**/*.py"), *ROOT.glob("serving/**/*.py"), *ROOT.glob("components/**/*.py")]
    assert len(sources) > 100
    for source in sources:
        text = source.read_text()
        for name in removed:
            package, _, part = name.rpartition(".")
            assert name not in text and f"from {package} import {part}" not in text, f"{source} uses {name}"


def test_no_library_that_stays_needs_one_that_is_removed(install: ModuleType) -> None:
    """A dynamic library names those that it loads; pyarrow's own modules name libarrow_substrait, so that stays."""
    packages = Path(importlib.util.find_spec("pyarrow").origin or "").parents[1]  # type: ignore[union-attr]
    gone = {path for pattern in install.UNUSED for path in packages.glob(pattern) if ".so" in path.name}
    assert len(gone) >= 4
    for package in {path.relative_to(packages).parts[0] for path in gone}:
        kept = [path for path in (packages / package).rglob("*.so*") if path not in gone]
        names = [path.name.encode() + b"\0" for path in gone if path.name.startswith("lib")]
        for path in kept:
            data = path.read_bytes()
            assert not [name for name in names if b"\0" + name in data], path


def test_byte_code_holds_no_time(install: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "kubernetes").mkdir()
    for name in ("a.py", "kubernetes/b.py"):
        (tmp_path / name).write_text("x = 1\n")
    install.byte_compile(Path(sys.executable), tmp_path)
    [made] = tmp_path.rglob("*.pyc")
    assert made.name.startswith("a.") and made.read_bytes()[4:8] == b"\x01\0\0\0", "unchecked, by hash"
    before = made.stat().st_mtime_ns
    install.byte_compile(Path(sys.executable), tmp_path)
    assert made.stat().st_mtime_ns == before, "a file of a layer below is not written again"


def test_the_bill_of_materials_names_the_base_image_s_packages(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "cyclonedx-py"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys, json\n"
        "open(sys.argv[sys.argv.index('-o') + 1], 'w').write(json.dumps({'components': [{'name': 'numpy'}]}))\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    status = tmp_path / "status"
    status.write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u9\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    )
    monkeypatch.setattr(install, "Path", lambda text: status if text == "/var/lib/dpkg/status" else Path(text))
    install.describe(tmp_path)
    found = json.loads((tmp_path / "sbom.cdx.json").read_text())["components"]
    assert [one["name"] for one in found] == ["numpy", "libc6"]
    assert found[1]["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u9?arch=amd64"
