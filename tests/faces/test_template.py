"""The similarity transform against OpenCV's least-squares one, and what shrinking does to fine detail."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eolgul.errors import InputError
from eolgul.faces.template import TEMPLATE, align_face, crop_box, similarity_transform


@given(st.floats(-3.1, 3.1), st.floats(0.05, 20), st.floats(-500, 500), st.floats(-500, 500), st.integers(0, 2**32 - 1))
def test_recovers_a_known_transform(angle: float, scale: float, x: float, y: float, seed: int) -> None:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[c, -s, x], [s, c, y]])
    source = np.random.default_rng(seed).normal(0, 50, (5, 2))
    target = source @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(similarity_transform(source, target), matrix, atol=1e-6 * max(1, scale))


def test_is_the_least_squares_answer_where_no_exact_one_exists() -> None:
    """The normal equations of (a, b, tx, ty) in x' = a x - b y + tx, y' = b x + a y + ty, solved by numpy's lstsq."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        source = TEMPLATE * rng.uniform(0.5, 3) + rng.normal(0, 6, (5, 2))
        rows = np.concatenate(
            [
                np.column_stack([source[:, 0], -source[:, 1], np.ones(5), np.zeros(5)]),
                np.column_stack([source[:, 1], source[:, 0], np.zeros(5), np.ones(5)]),
            ]
        )
        a, b, tx, ty = np.linalg.lstsq(rows, TEMPLATE.T.ravel(), rcond=None)[0]
        np.testing.assert_allclose(similarity_transform(source, TEMPLATE), [[a, -b, tx], [b, a, ty]], atol=1e-8)


def test_never_a_reflection_and_never_a_nan() -> None:
    mirrored = TEMPLATE * [-1, 1] + [112, 0]
    assert np.linalg.det(similarity_transform(mirrored, TEMPLATE)[:, :2]) > 0
    with pytest.raises(ValueError, match="one place"):
        similarity_transform(np.ones((5, 2)), TEMPLATE)


def test_landmarks_land_on_the_template() -> None:
    image = np.zeros((300, 300, 3), np.uint8)
    landmarks = (TEMPLATE * 1.5 + 40).round()
    for x, y in landmarks.astype(int):
        cv2.circle(image, (int(x), int(y)), 3, (255, 255, 255), -1)
    face = align_face(image, landmarks)
    assert face.shape == (112, 112, 3)
    for x, y in TEMPLATE:
        assert face[round(y), round(x), 0] > 200


@pytest.mark.parametrize("size", [600, 1200, 2400])
def test_a_fine_grid_does_not_alias_when_it_shrinks(size: int) -> None:
    """A one-pixel checkerboard averages to grey; bilinear sampling alone would give a moiré of black and white."""
    yy, xx = np.mgrid[:size, :size]
    image = np.repeat((((xx + yy) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    landmarks = TEMPLATE * (size / 112)
    inner = align_face(image, landmarks)[10:-10, 10:-10].astype(float)
    assert abs(inner.mean() - 127.5) < 3
    assert inner.std() < 6


def test_shrinking_keeps_the_place() -> None:
    """A white disc centred on the nose stays centred on the nose, however large the picture was."""
    for factor in (1.5, 4, 9):
        image = np.zeros((int(112 * factor), int(112 * factor), 3), np.uint8)
        landmarks = TEMPLATE * factor
        cv2.circle(image, tuple(round(v) for v in landmarks[2]), int(6 * factor), (255, 255, 255), -1)
        face = align_face(image, landmarks)[..., 0].astype(float)
        centre = (np.indices(face.shape) * face).sum(axis=(1, 2)) / face.sum()
        np.testing.assert_allclose(centre[::-1], TEMPLATE[2], atol=0.6)


def test_equals_skimage_and_its_warp_equals_opencvs() -> None:
    """The matrix within 1e-6 of scikit-image's SimilarityTransform; the picture within a grey level of a warp with it."""
    transform = pytest.importorskip("skimage.transform")
    rng = np.random.default_rng(2)
    image = np.asarray(cv2.GaussianBlur(rng.integers(0, 256, (240, 320, 3), np.uint8), (0, 0), 1.5), np.uint8)
    for _ in range(40):
        scale, angle = rng.uniform(0.6, 1.8), rng.uniform(-0.6, 0.6)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        landmarks = TEMPLATE @ turn.T + rng.uniform(20, 90, 2) + rng.normal(0, 3, (5, 2))
        theirs = transform.SimilarityTransform.from_estimate(landmarks, TEMPLATE).params[:2]
        np.testing.assert_allclose(similarity_transform(landmarks, TEMPLATE), theirs, atol=1e-6)
        expected = cv2.warpAffine(image, theirs, (112, 112), flags=cv2.INTER_LINEAR, borderValue=0)
        assert np.abs(align_face(image, landmarks).astype(int) - expected).max() <= 1


def test_the_plain_box_is_what_the_box_shows() -> None:
    image = np.random.default_rng(4).integers(0, 256, (300, 300, 3), np.uint8)
    np.testing.assert_array_equal(crop_box(image, np.array([40, 60, 152, 172])), image[60:172, 40:152])
    shrunk = crop_box(image, np.array([10, 20, 234, 244])).astype(float)
    expected = image[20:244, 10:234].reshape(112, 2, 112, 2, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - expected).max() <= 1
    np.testing.assert_array_equal(crop_box(image, np.array([-50, -50, 112, 112])), image[:112, :112])
    with pytest.raises(InputError, match="outside"):
        crop_box(image, np.array([400, 400, 500, 500]))
