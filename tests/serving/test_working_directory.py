"""`eolgul serve` imports nothing from the folder it is started in, in a checkout and in an install from a wheel."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support.serving import free_port

import eolgul
from eolgul.model.package import ModelPackage

CHECKOUT = Path(__file__).parents[2]
# What the console script does: the working directory is not on its path.
EOLGUL = [sys.executable, "-P", "-c", "from eolgul.cli import main; main()"]
HOSTILE = (
    "serving/__init__.py",
    "serving/launch.py",
    "components/__init__.py",
    "pipelines/__init__.py",
    "eolgul/__init__.py",
    "eolgul/serving/launch.py",
    "bentoml.py",
    "json.py",
    "service.py",
    "sitecustomize.py",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, built in a copy: a build leaves files in its source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("src", "serving", "components", "pipelines"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(CHECKOUT / name, folder / "source" / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(CHECKOUT / name, folder / "source")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        "out",
        "./source",
    ]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    [built] = (folder / "out").glob("eolgul-*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    package = CHECKOUT / "src" / "eolgul"
    folders = [package, *(package / name for name in ("serving", "components", "pipelines"))]
    files = {file.relative_to(package) for folder in folders for file in folder.rglob("*") if file.is_file()}
    wanted = {
        f"eolgul/{file}" for file in files if "__pycache__" not in file.parts and file.suffix not in (".md", ".yaml")
    }
    assert wanted - packed == set()
    assert {Path(name).suffix for name in packed} >= {".html", ".css", ".js", ".svg", ".j2", ".toml"}


@pytest.mark.parametrize("install", ["checkout", "wheel"])
def test_nothing_of_the_working_directory_is_imported(
    install: str, wheel: Path, package: ModelPackage, tmp_path: Path
) -> None:
    imported = tmp_path / "imported"
    imported.mkdir()
    for name in HOSTILE:
        file = tmp_path / "hostile" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        mark = imported / name.replace("/", "-")
        file.write_text(f"open({str(mark)!r}, 'w').close()\nraise SystemExit('imported from the working directory')\n")
    root = Path(eolgul.__file__).parents[1]
    if install == "wheel":
        root = tmp_path / "site"
        zipfile.ZipFile(wheel).extractall(root)
    environment = os.environ | {"PYTHONPATH": str(root), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    options: dict[str, Any] = {"cwd": tmp_path / "hostile", "env": environment, "text": True}
    code = [*EOLGUL[:-1], "import eolgul.serving; print(eolgul.serving.__file__)"]
    place = subprocess.run(code, check=True, stdout=subprocess.PIPE, **options)
    assert Path(place.stdout.strip()).is_relative_to(root)

    port = free_port()
    arguments = ["serve", "--model", str(package.path), "--port", str(port)]
    with subprocess.Popen([*EOLGUL, *arguments], stderr=subprocess.PIPE, **options) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("page: "):
                break
        else:
            pytest.fail("the service did not start:\n" + "".join(lines))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ui/style.css") as style:
            assert style.read() == (root / "eolgul" / "serving" / "web" / "static" / "style.css").read_bytes()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert list(imported.iterdir()) == []
