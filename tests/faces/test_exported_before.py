"""Networks that were exported before: an image that has them finds the same faces, without torch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from eolgul.align.config import AlignConfig
from eolgul.align.step import _detector
from eolgul.errors import InputError
from eolgul.faces.mtcnn import Detector
from eolgul.faces.networks import export_onnx, onnx_folder
from eolgul.model.package import DetectorSettings


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)


def test_they_are_used_and_torch_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: np.ndarray) -> None:
    export_onnx(tmp_path)
    settings = DetectorSettings(min_face_size=20)
    [expected] = Detector.from_onnx(tmp_path, settings).detect([image])
    monkeypatch.setenv("EOLGUL_DETECTOR", str(tmp_path))
    for module in ("torch", "facenet_pytorch", "facenet_pytorch.models.mtcnn"):
        monkeypatch.setitem(sys.modules, module, None)
    with onnx_folder() as folder, _detector(AlignConfig()) as detector:
        assert folder == tmp_path
        assert detector.settings == AlignConfig().detector
    [found] = Detector.on_cpu(settings).detect([image])
    assert np.array_equal(found.boxes, expected.boxes)
    with pytest.raises(InputError, match="torch is not installed here"), _detector(AlignConfig(backend="torch")):
        pass


def test_a_folder_without_them_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EOLGUL_DETECTOR", str(tmp_path))
    with pytest.raises(InputError, match=r"pnet\.onnx: missing"):
        Detector.on_cpu(DetectorSettings())
