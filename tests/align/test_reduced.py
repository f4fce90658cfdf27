"""Large pictures in which only large faces are looked for: JPEGs are decoded smaller, and the faces stay the same."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from eolgul.align.aligner import reduction
from eolgul.align.config import AlignConfig
from eolgul.align.step import align
from eolgul.dataset import FaceDataset
from eolgul.extract.step import extract
from eolgul.images.decode import decode

LARGE = AlignConfig(min_face_size=240)


@pytest.fixture(scope="module")
def enlarged(kface_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures four times as large, each as PNG, as JPEG, and as JPEG that EXIF turns upright."""
    tmp = tmp_path_factory.mktemp("large")
    for number, file in enumerate(sorted(kface_tree.rglob("S001/L1/E01/C*.jpg"))):
        picture = Image.fromarray(cv2.resize(decode(file.read_bytes())[0], (1383, 921), interpolation=cv2.INTER_CUBIC))
        folder = tmp / "photos" / f"person{number}"
        folder.mkdir(parents=True)
        picture.save(folder / "whole.png")
        picture.save(folder / "plain.jpg", quality=97)
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", quality=97, exif=exif)
    extract(tmp / "photos", tmp / "extracted")
    return tmp / "extracted"


@pytest.mark.parametrize(("smallest", "by"), [(20, 1), (223, 1), (224, 2), (447, 2), (448, 4), (900, 8), (5000, 8)])
def test_no_face_gets_smaller_than_the_crop_needs(smallest: int, by: int) -> None:
    assert reduction(smallest) == by


@pytest.mark.parametrize("by", [2, 4, 8])
def test_a_reduced_jpeg_is_the_picture_made_smaller(by: int) -> None:
    y, x = np.mgrid[0:301, 0:203]
    smooth = np.stack([128 + 100 * np.sin(x / 37), 128 + 100 * np.cos(y / 53), (x + y) / 3], -1).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(smooth).save(data, "JPEG", quality=98)
    small, info = decode(data.getvalue(), reduce=by)
    assert (info.width, info.height) == (203, 301)
    assert small.shape == (-(-301 // by), -(-203 // by), 3)
    inside = small[: 301 // by, : 203 // by].astype(float)
    means = smooth[: 301 // by * by, : 203 // by * by].reshape(301 // by, by, 203 // by, by, 3).mean((1, 3))
    assert np.abs(inside - means).mean() < 1.5


def test_faces_are_found_and_cut_alike_from_reduced_jpegs(enlarged: Path, tmp_path: Path) -> None:
    align(enlarged, tmp_path / "aligned", LARGE)
    after = FaceDataset(tmp_path / "aligned")
    rows = {image_id: row for row, image_id in enumerate(after.column("image_id"))}
    assert len(rows) == 18
    marks, boxes, eyes = (after.column(name) for name in ("landmarks", "box", "eye_distance"))
    moved = []
    for number in range(6):
        whole = rows[f"person{number}/whole"]
        face = decode(after.read(whole))[0].astype(float)
        for name in ("plain", "turned"):
            row = rows[f"person{number}/{name}"]
            moved.append((np.array(marks[row]) - marks[whole]) / eyes[whole])
            # As much as MTCNN's own answers differ when a picture is one pixel larger.
            assert np.abs(moved[-1]).max() < 0.06
            assert np.abs(np.array(boxes[row]) - boxes[whole]).max() < 0.15 * eyes[whole]
            assert eyes[row] == pytest.approx(eyes[whole], rel=0.03)
            assert np.abs(decode(after.read(row))[0] - face).mean() < 6
    assert np.abs(np.mean(moved)) < 0.012  # and to no side
