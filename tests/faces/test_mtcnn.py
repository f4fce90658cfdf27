"""The cascade against facenet-pytorch's own, on real photos, with both backends."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eolgul.errors import InputError
from eolgul.faces import area_sampling
from eolgul.faces.area_sampling import Picture
from eolgul.faces.choose import choose
from eolgul.faces.mtcnn import Detector, Faces, pyramid_scales
from eolgul.faces.networks import OnnxNetworks, Portions, export_onnx
from eolgul.faces.suppression import nms
from eolgul.images.decode import decode
from eolgul.model.package import DetectorSettings

SETTINGS = DetectorSettings(min_face_size=30)


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Detector]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("detector")
    export_onnx(folder)
    return {"onnx": Detector.from_onnx(folder, SETTINGS), "torch": Detector.from_torch(SETTINGS)}


def photos(shared_data: Path) -> list[np.ndarray]:
    lfw = sorted((shared_data / "lfw-1-5" / "images").glob("*/*.jpg"))[:6000:200]
    orl = sorted((shared_data / "orl").glob("*/*.pgm"))[::40]
    assert len(lfw) == 30 and len(orl) == 10
    return [decode(path.read_bytes())[0] for path in (*lfw, *orl)]


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_finds_what_facenet_pytorch_finds(backend: str, detectors: dict[str, Detector], shared_data: Path) -> None:
    from facenet_pytorch import MTCNN

    reference = MTCNN(min_face_size=30, thresholds=[0.6, 0.7, 0.7], keep_all=True, device="cpu")
    faces = 0
    for photo in photos(shared_data):
        boxes, scores, landmarks = reference.detect(photo, landmarks=True)
        found = detectors[backend].detect([photo])[0]
        assert len(found) == (0 if boxes is None else len(boxes))
        for box, score, points in (
            zip(*(() if boxes is None else (boxes, scores, landmarks)), strict=True) if len(found) else ()
        ):
            nearest = int(np.argmin(np.abs(found.boxes - box.astype(float)).sum(axis=1)))
            np.testing.assert_allclose(found.boxes[nearest], box.astype(float), atol=0.01)
            np.testing.assert_allclose(found.landmarks[nearest], points.astype(float), atol=0.01)
            assert found.scores[nearest] == pytest.approx(float(score), abs=1e-4)
            faces += 1
    assert faces >= 40


def test_a_batch_of_mixed_sizes_gives_what_single_images_give(
    detectors: dict[str, Detector], shared_data: Path
) -> None:
    some = photos(shared_data)[::4]
    blank = np.full((90, 130, 3), 128, np.uint8)
    tiny = np.zeros((8, 5, 3), np.uint8)
    together = detectors["onnx"].detect([*some, blank, tiny])
    assert [len(faces) for faces in together[-2:]] == [0, 0]
    assert [len(faces) for faces in (*detectors["onnx"].detect([blank]), *detectors["onnx"].detect([tiny]))] == [0, 0]
    assert detectors["onnx"].detect([]) == []
    for photo, found in zip(some, together, strict=False):
        (alone,) = detectors["onnx"].detect([photo])
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=0.01)
        assert found.boxes.dtype == found.scores.dtype == found.landmarks.dtype == np.float32
        assert (np.diff(found.scores) <= 0).all()


def test_threads_do_not_disturb_each_other(detectors: dict[str, Detector], shared_data: Path) -> None:
    """Each has its own memory for what it sums up."""
    some = photos(shared_data)[::4]
    alone = [detectors["onnx"].detect([photo])[0] for photo in some]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda photo: detectors["onnx"].detect([photo])[0], some * 3))
    for one, other in zip(alone * 3, together, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)


@pytest.mark.parametrize("strip", [area_sampling.STRIP, 131 * 20])
def test_area_averages_equal_torchs(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a whole picture and of boxes in it, enlarged and shrunk, from one table and in strips."""
    monkeypatch.setattr(area_sampling, "STRIP", strip)
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (97, 131, 3), np.uint8)
    picture = Picture(image)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    sizes = ((48, 48), (24, 24), (97, 131), (200, 150), (13, 7), (1, 1))
    levels = [np.empty((3, *size), np.float32) for size in sizes]
    picture.levels(levels)
    for size, level in zip(sizes, levels, strict=True):
        expected = F.interpolate(tensor, size=size, mode="area").numpy()[0]
        np.testing.assert_allclose(level, (expected - 127.5) / 128, atol=1e-6)
    boxes = np.array([[0, 0, 131, 97], [5, 9, 30, 80], [100, 90, 101, 91]])
    crops = np.empty((3, 3, 24, 24), np.float32)
    picture.crops(boxes, crops)
    for box, crop in zip(boxes, crops, strict=True):
        x1, y1, x2, y2 = box
        expected = F.interpolate(tensor[:, :, y1:y2, x1:x2], size=(24, 24), mode="area").numpy()[0]
        np.testing.assert_allclose(crop, (expected - 127.5) / 128, atol=1e-6)


def test_sums_that_wrap_around_still_average_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """A white picture of 9.4 million pixels overflows 32-bit sums; its averages are white."""
    monkeypatch.setattr(area_sampling, "STRIP", 1 << 25)
    picture = Picture(np.full((3072, 3072, 3), 255, np.uint8))
    level, crops = np.empty((3, 5, 7), np.float32), np.empty((2, 3, 24, 24), np.float32)
    picture.levels([level])
    picture.crops(np.array([[3000, 3000, 3072, 3072], [2, 2, 3000, 3071]]), crops)
    np.testing.assert_allclose(level, 127.5 / 128, atol=1e-6)
    np.testing.assert_allclose(crops, 127.5 / 128, atol=1e-6)


def test_the_pnet_in_strips_gives_what_it_gives_in_one(
    detectors: dict[str, Detector], shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for height in (201, 202, 203, 204):
        photo = np.ascontiguousarray(photos(shared_data)[0][:height])
        (whole,) = detectors["onnx"].detect([photo])
        with monkeypatch.context() as patch:
            patch.setattr(OnnxNetworks, "portions", Portions(101 * 30, 7, 3))
            (strips,) = detectors["onnx"].detect([photo])
        assert len(strips) == len(whole) >= 1
        np.testing.assert_allclose(strips.boxes, whole.boxes, atol=0.01)


def test_scales_stop_where_the_smallest_face_no_longer_fits() -> None:
    scales = pyramid_scales(100, 200, DetectorSettings(min_face_size=50))
    assert scales[0] == 12 / 50
    assert all(100 * scale >= 12 for scale in scales) and 100 * scales[-1] * 0.709 < 12
    assert pyramid_scales(49, 400, DetectorSettings(min_face_size=50)) == []


def test_nms_against_the_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        corner = rng.uniform(0, 60, (40, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (40, 2))], axis=1).astype(np.float32)
        scores = rng.permutation(40).astype(np.float32)
        kept: list[int] = []
        for row in np.argsort(-scores):
            if all(overlap(boxes[row], boxes[other]) <= 0.5 for other in kept):
                kept.append(int(row))
        assert nms(boxes, scores, 0.5).tolist() == kept


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    w, h = (min(a[2 + k], b[2 + k]) - max(a[k], b[k]) for k in (0, 1))
    if w <= 0 or h <= 0:
        return 0.0
    return float(w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h))


def test_which_face_counts() -> None:
    boxes = np.array([[0, 0, 60, 60], [90, 90, 130, 130]], np.float32)
    faces = Faces(boxes, np.array([0.9, 0.8], np.float32), np.zeros((2, 5, 2), np.float32))
    assert choose(faces, "largest", (220, 220)) == 0
    assert choose(faces, "center", (220, 220)) == 1
    with pytest.raises(InputError) as caught:
        choose(faces, "single", (220, 220))
    assert caught.value.code == "several_faces"
    with pytest.raises(InputError, match="prettiest"):
        choose(faces, "prettiest", (220, 220))
    assert choose(Faces(boxes[:0], faces.scores[:0], faces.landmarks[:0]), "largest", (1, 1)) is None


@pytest.mark.process
def test_detection_with_onnx_needs_no_torch() -> None:
    code = (
        "import sys, eolgul.faces.mtcnn, eolgul.faces.choose, eolgul.faces.template; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
