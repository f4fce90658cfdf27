"""The cascade finds what facenet-pytorch finds, on photos where the data is there and on drawn people everywhere.

`benchmarks/align_equal.py` is the same over every image of the data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eolgul.faces.mtcnn import Detector, Faces
from eolgul.faces.networks import OnnxNetworks, TorchNetworks
from eolgul.images.decode import decode
from eolgul.model.package import DetectorSettings

SETTINGS = DetectorSettings(min_face_size=40)


def count_matched(peer: Any, detector: Detector, images: list[np.ndarray]) -> tuple[int, int, int]:
    """Faces on both sides, counted once where they match (IoU >= 0.99, landmarks within 0.5 px); all of them; images
    in which we find one."""
    matched = total = 0
    found = detector.detect(images)
    theirs_found, _, theirs_points = peer.detect(images, landmarks=True)
    for boxes, points, ours in zip(theirs_found, theirs_points, found, strict=True):
        theirs = 0 if boxes is None else len(boxes)
        total += max(theirs, len(ours))
        for box, five in zip(boxes, points, strict=True) if theirs else ():
            matched += any(same(box.astype(float), five.astype(float), ours, row) for row in range(len(ours)))
    return matched, total, sum(len(faces) > 0 for faces in found)


def same(box: np.ndarray, five: np.ndarray, ours: Faces, row: int) -> bool:
    other = ours.boxes[row]
    sides = np.maximum(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0)
    union = (box[2:] - box[:2]).prod() + (other[2:] - other[:2]).prod() - sides.prod()
    near = np.linalg.norm(ours.landmarks[row] - five, axis=1).max()
    return bool(sides.prod() / union >= 0.99 and near <= 0.5)


def peer() -> Any:
    from facenet_pytorch import MTCNN

    torch.set_num_threads(1)
    return MTCNN(min_face_size=40, thresholds=[0.6, 0.7, 0.7], keep_all=True, device="cpu")


def test_on_drawn_people(networks: Path, kface_tree: Path) -> None:
    images = [decode(path.read_bytes())[0] for path in sorted(kface_tree.rglob("*.jpg"))]
    assert len(images) >= 20
    matched, total, _ = count_matched(peer(), Detector.from_onnx(networks, SETTINGS), images)
    assert matched == total >= 20


def test_on_two_hundred_photos(networks: Path, shared_data: Path) -> None:
    files = sorted((shared_data / "lfw-1-5" / "images").glob("*/*.jpg"))[::30]
    assert len(files) >= 200
    reference, detector = peer(), Detector.from_onnx(networks, SETTINGS)
    matched = total = with_face = 0
    for at in range(0, len(files), 16):
        images = [decode(file.read_bytes())[0] for file in files[at : at + 16]]
        counts = count_matched(reference, detector, images)
        matched, total, with_face = matched + counts[0], total + counts[1], with_face + counts[2]
    assert matched >= 0.999 * total and total >= 200
    assert with_face >= 0.999 * len(files)


@pytest.mark.parametrize(
    ("name", "shape"), [("pnet", (2, 3, 61, 80)), ("rnet", (33, 3, 24, 24)), ("onet", (9, 3, 48, 48))]
)
def test_the_exported_networks_compute_what_torchs_do(networks: Path, name: str, shape: tuple[int, ...]) -> None:
    """Although PReLU is written in another form: within 1e-5 of facenet-pytorch's modules, for outputs of about 1."""
    batch = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    for ours, theirs in zip(
        getattr(OnnxNetworks(networks), name)(batch), getattr(TorchNetworks(), name)(batch), strict=True
    ):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
