"""The measures of a face's picture, on pictures whose answer is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from eolgul.faces.quality import (
    defects,
    estimated_roll,
    picture_quality,
    pixels_inside,
    share_outside,
)
from eolgul.faces.template import SIZE, TEMPLATE, align_face

SQUARE = np.array([[0, 0], [SIZE, 0], [SIZE, SIZE], [0, SIZE]])


def textured(seed: int = 0) -> NDArray[np.uint8]:
    """Detail at every scale, as skin and hair have it, and as much in every direction."""
    random = np.random.default_rng(seed)
    layers = [cv2.resize(random.normal(0, 18, (side, side)), (SIZE, SIZE)) for side in (7, 14, 28, 56, 112)]
    grey = np.clip(128 + np.sum(layers, axis=0), 0, 255).astype(np.uint8)
    return np.stack([grey] * 3, axis=2)


def turned(angle: float, scale: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.float64]:
    """The template's points, turned about their middle, scaled and moved."""
    sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    return (TEMPLATE - 56) @ np.array([[cosine, sine], [-sine, cosine]]) * scale + 56 + np.asarray(shift)


@pytest.mark.parametrize(
    ("shift", "share"), [((0, 0), 0.0), ((-28, 0), 0.25), ((0, 56), 0.5), ((28, 28), 0.4375), ((300, 0), 1.0)]
)
def test_the_share_of_a_face_outside_the_picture(shift: tuple[float, float], share: float) -> None:
    assert share_outside(turned(0, shift=shift), (SIZE, SIZE)) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_the_share_outside_is_what_the_alignment_leaves_black(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = (int(random.integers(60, 300)), int(random.integers(60, 300)))
    points = turned(random.uniform(-180, 180), random.uniform(0.6, 2.5), tuple(random.uniform(-60, 160, 2)))
    crop = align_face(np.full((size[1], size[0], 3), 255, np.uint8), points)
    assert share_outside(points, size) == pytest.approx((crop[..., 0] < 128).mean(), abs=0.02)
    assert share_outside(points, size) == pytest.approx(1 - pixels_inside(points, size).mean(), abs=0.04)


@pytest.mark.parametrize("angle", [0, 30, 90, 135, 180, -60])
def test_turning_picture_and_face_together_changes_nothing_of_the_cut(angle: float) -> None:
    side = 200.0
    for shift in ((0, 0), (-40, 10), (90, 90)):
        points = turned(0, shift=shift)
        corner = np.array([side, side]) / 2
        sine, cosine = np.sin(np.radians(90 * round(angle / 90))), np.cos(np.radians(90 * round(angle / 90)))
        quarter = (points + 0.5 - corner) @ np.array([[cosine, sine], [-sine, cosine]]) + corner - 0.5
        expected = share_outside(points, (int(side), int(side)))
        assert share_outside(quarter, (int(side), int(side))) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("angle", [0, 20, 45, 70, 90, 110, 135])
def test_motion_in_any_direction_takes_detail(angle: float) -> None:
    straight = np.zeros((9, 9), np.float32)
    straight[4] = 1 / 9
    kernel = cv2.warpAffine(straight, cv2.getRotationMatrix2D((4, 4), angle, 1), (9, 9))
    face = textured()
    shaken = cv2.filter2D(face, -1, kernel / kernel.sum()).astype(np.uint8)
    assert defects(shaken)["detail"] < 0.5 * defects(face)["detail"]


def test_blur_takes_detail_and_light_does_not() -> None:
    face = textured()
    sharp = defects(face)["detail"]
    values = [defects(cv2.GaussianBlur(face, (0, 0), sigma).astype(np.uint8))["detail"] for sigma in (1, 2, 4)]
    assert sharp > values[0] > values[1] > values[2]
    dark = (face.astype(np.float32) * 0.4).astype(np.uint8)
    assert defects(dark)["detail"] == pytest.approx(sharp, rel=0.05)


@pytest.mark.parametrize("deviation", [5, 10, 20])
@pytest.mark.parametrize("sigma", [0, 2, 4])
def test_noise_gives_no_detail_back(sigma: int, deviation: float) -> None:
    face = textured()
    if sigma:
        face = np.asarray(cv2.GaussianBlur(face, (0, 0), sigma), np.uint8)
    random = np.random.default_rng(1)
    noisy = np.clip(np.rint(face + random.normal(0, deviation, face.shape)), 0, 255).astype(np.uint8)
    assert defects(noisy)["detail"] == pytest.approx(defects(face)["detail"], rel=0.2, abs=0.15 * deviation)


def test_noise_and_white_are_estimated() -> None:
    random = np.random.default_rng(0)
    plain = np.full((SIZE, SIZE, 3), 128.0)
    noisy = np.clip(plain + random.normal(0, 12, (SIZE, SIZE, 1)), 0, 255).astype(np.uint8)
    assert defects(noisy)["noise"] == pytest.approx(12, rel=0.1)
    white = textured()
    white[16:36, 16:-16] = 255  # a quarter of the middle 80 x 80 pixels
    assert defects(white)["overexposed"] == pytest.approx(0.25, abs=0.02)


def test_compression_leaves_detail_in_few_edges() -> None:
    face = textured()
    data = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, 3])[1]
    blocks = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    assert defects(blocks)["texture"] < 0.2 < defects(face)["texture"]


def test_the_edge_of_the_picture_is_no_detail() -> None:
    """Black from outside a blurred picture begins with the strongest edge there is; it must not make the face look sharp."""
    blurred = np.asarray(cv2.GaussianBlur(textured(), (0, 0), 5), np.uint8)
    cut, inside = blurred.copy(), np.ones((SIZE, SIZE), bool)
    cut[70:], inside[70:] = 0, False
    assert defects(cut, inside)["detail"] == pytest.approx(defects(blurred)["detail"], rel=0.3)
    assert (
        picture_quality(cut, inside)["sharpness"]
        < 2 * picture_quality(blurred)["sharpness"]
        < picture_quality(cut)["sharpness"]
    )
    assert picture_quality(cut, inside)["brightness"] == pytest.approx(blurred[16:66].mean(), rel=0.1)


def test_roll_is_the_slope_of_the_eyes() -> None:
    for angle in (-120, -30, 0, 10, 90):
        assert estimated_roll(turned(angle)) == pytest.approx(angle, abs=0.5)
