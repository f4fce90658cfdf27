"""examples/verify_two_photos.py, against a running service and with a model package."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import tiny_package
from support.serving import serve

from eolgul.faces.networks import export_onnx
from eolgul.model.package import ModelPackage

pytest.importorskip("embreex")
pytest.importorskip("bentoml")

from eolgul.synth import draw_folders

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "verify_two_photos.py"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two photos of one drawn person."""
    folder = tmp_path_factory.mktemp("photos") / "drawn"
    draw_folders(folder, people=1, images=2, workers=1)
    return sorted(folder.rglob("*.jpg"))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    detector = tmp_path_factory.mktemp("detector")
    export_onnx(detector)
    return tiny_package.write(tmp_path_factory.mktemp("model") / "model", detector)


def example(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLE, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_service_and_package_give_the_same_answer(photos: list[Path], package: ModelPackage, tmp_path: Path) -> None:
    here = example(*photos, "--model", package.path)
    assert here.returncode == 0, here.stderr
    assert here.stdout.startswith(("same: similarity ", "different: similarity ", "undecided: similarity "))
    with contextmanager(serve)(package, "", tmp_path) as service:
        url = str(service.client.base_url)
        asked = example(*photos, "--url", url)
        assert (asked.returncode, asked.stdout) == (0, here.stdout), asked.stderr
        (tmp_path / "empty.jpg").write_bytes(b"")
        refused = example(photos[0], tmp_path / "empty.jpg", "--url", url)
        assert refused.returncode == 1 and refused.stdout == ""
        assert len(refused.stderr.splitlines()) == 1 and "image" in refused.stderr
    gone = example(*photos, "--url", "http://127.0.0.1:9")
    assert gone.returncode == 1 and "(no_answer)" in gone.stderr


def test_a_file_that_is_not_an_image_is_one_sentence(photos: list[Path], package: ModelPackage) -> None:
    refused = example(photos[0], EXAMPLE, "--model", package.path)
    assert refused.returncode == 1 and refused.stdout == ""
    assert len(refused.stderr.splitlines()) == 1
