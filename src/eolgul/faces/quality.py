"""Figures of a face image: sharpness, noise, light, the part outside the picture, eye distance, yaw and roll of the head."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from eolgul.faces.template import SIZE, TEMPLATE, similarity_transform

Grey = NDArray[np.integer | np.floating]
_MARGIN = 16  # of the 112 pixels on each side: there may be hair, background, or black from outside the picture
_MIDDLE = np.s_[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
_NOISE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)  # blind to planes and to straight edges
_DIRECTIONS = tuple(
    np.array(rows, np.float32)
    for rows in ([[1, -2, 1]], [[1], [-2], [1]], [[1, 0, 0], [0, -2, 0], [0, 0, 1]], [[0, 0, 1], [0, -2, 0], [1, 0, 0]])
)
# Second derivatives along x, along y and mixed, of an image of averages of 2 x 2 pixels.
_SECOND = tuple(
    np.array(rows, np.float32)
    for rows in ([[1, -2, 1]], [[1], [-2], [1]], [[0.25, 0, -0.25], [0, 0, 0], [-0.25, 0, 0.25]])
)
_ANGLES = np.radians(np.arange(0, 180, 15))
_ROUNDING = 1e-3  # a dozen pixels of the aligned face; areas are computed in single precision
_WHITE = 253  # grey levels from here on count as overexposed


def picture_quality(face: NDArray[np.uint8], inside: NDArray[np.bool_] | None = None) -> dict[str, float]:
    """Measure the middle 80 x 80 pixels of an aligned face in grey levels, so that faces are comparable.

    Args:
        face: uint8 RGB, 112 x 112 x 3.
        inside: bool, 112 x 112; the pixels that lie inside the picture. None: all.

    Returns:
        `sharpness`: variance of the Laplacian (Pech-Pacheco et al. 2000); `brightness`: mean; `contrast`: standard
        deviation; all of grey levels 0…255.
    """
    grey, counted = _middle(face, inside)
    return {
        "sharpness": float(cv2.Laplacian(grey, cv2.CV_32F)[counted].var()),
        "brightness": float(grey[counted].mean()),
        "contrast": float(grey[counted].std()),
    }


def defects(face: NDArray[np.uint8], inside: NDArray[np.bool_] | None = None) -> dict[str, float]:
    """Measure what the figures of `picture_quality` do not show, in the same pixels.

    Args:
        face: uint8 RGB, 112 x 112 x 3.
        inside: As for `picture_quality`.

    Returns:
        `detail`: root mean square of the second derivative of the face at half its size, without what noise adds to it, in
        per cent of the mean grey level, in the direction where it is least, since motion blurs one direction only. `texture`:
        median by mean of the second differences at full size, where that is least: near 0 where all detail is in a few edges,
        as between the blocks of a strong compression. `noise`: estimated standard deviation of the noise in grey levels
        (Immerkær 1996). `overexposed`: share of white pixels, 0 to 1.
    """
    grey, counted = _middle(face, inside)
    exact = cv2.cvtColor(face[_MIDDLE].astype(np.float32), cv2.COLOR_RGB2GRAY)  # rounding would hide faint detail
    second = [np.abs(cv2.filter2D(exact, -1, kernel)[counted]) for kernel in _DIRECTIONS]
    return {
        "detail": _detail(exact, counted) * 100 / max(1.0, float(exact[counted].mean())),
        "texture": min(float(np.median(size) / max(1e-6, size.mean())) for size in second),
        "noise": _deviation(exact, counted),
        "overexposed": float((grey >= _WHITE)[counted].mean()),
    }


def _deviation(grey: Grey, counted: NDArray[np.bool_]) -> float:
    """The standard deviation of the noise in the counted pixels (Immerkær 1996)."""
    return float(np.sqrt(np.pi / 2) / 6 * np.abs(cv2.filter2D(grey, -1, _NOISE)[counted]).mean())


def _detail(grey: Grey, counted: NDArray[np.bool_]) -> float:
    """The least root mean square, over directions, of the second derivative of `grey` at half its size.

    Noise adds a known power to it, which is taken away: otherwise noise would hide what blur has taken. The noise is estimated
    at half the size, too, since that of a photo is no longer white after its pixels were interpolated.
    """
    size = (grey.shape[1] // 2, grey.shape[0] // 2)
    half = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    whole = np.zeros(half.shape, bool)
    whole[1:-1, 1:-1] = cv2.resize(counted.astype(np.float32), size, interpolation=cv2.INTER_AREA)[1:-1, 1:-1] == 1
    if not whole.any():
        whole[1:-1, 1:-1] = True
    along = np.stack([cv2.filter2D(half, -1, kernel)[whole] for kernel in _SECOND]).astype(np.float64)
    weights = np.stack([np.cos(_ANGLES) ** 2, np.sin(_ANGLES) ** 2, np.sin(2 * _ANGLES)])
    power = np.einsum("ia,ij,ja->a", weights, along @ along.T / along.shape[1], weights)
    kernels = np.array([[6.0, 4.0, 0.0], [4.0, 6.0, 0.0], [0.0, 0.0, 0.25]])  # scalar products of the kernels
    added = np.einsum("ia,ij,ja->a", weights, kernels, weights) * _deviation(half, whole) ** 2
    return float(np.sqrt(max(0.0, (power - added).min())))


def pixels_inside(landmarks: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of the aligned face that lie inside a picture of `size` (width, height): bool, 112 x 112."""
    ends = np.rint(_picture(landmarks, size) * 16).astype(np.int32)  # sixteenths of a pixel
    return cv2.fillConvexPoly(np.zeros((SIZE, SIZE), np.uint8), ends, 1, shift=4).astype(bool)


def share_outside(landmarks: NDArray[np.floating], size: tuple[int, int]) -> float:
    """The share of the aligned face that lies outside the picture, where `align_face` leaves it black.

    Args:
        landmarks: 5 x 2, in pixels of the picture.
        size: Width and height of the picture in pixels.

    Returns:
        0 to 1.
    """
    picture = _picture(landmarks, size)
    crop = np.array([[0, 0], [SIZE, 0], [SIZE, SIZE], [0, SIZE]], np.float32) - np.float32(0.5)
    inside, _ = cv2.intersectConvexConvex(picture, crop)
    outside = 1 - float(inside) / SIZE**2
    return min(1.0, outside) if outside > _ROUNDING else 0.0


def _picture(landmarks: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float32]:
    """The corners of a picture in the coordinates of the aligned face: float32, 4 x 2."""
    width, height = size
    matrix = similarity_transform(landmarks, TEMPLATE)
    corners = (
        np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64) - 0.5
    )  # pixels have their centres
    return np.asarray(corners @ matrix[:, :2].T + matrix[:, 2], np.float32)


def _middle(face: NDArray[np.uint8], inside: NDArray[np.bool_] | None) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The middle of a face in grey, and the pixels that count: inside the picture, and not beside its edge."""
    grey = np.asarray(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[_MIDDLE], np.uint8)
    if inside is None or inside.all():
        return grey, np.ones(grey.shape, bool)
    counted = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1)[_MIDDLE].astype(bool)
    return grey, counted if counted.any() else np.ones(grey.shape, bool)


def eye_distance(landmarks: NDArray[np.floating]) -> float:
    """The distance between the eyes of five landmarks (5 x 2), in their unit."""
    return float(np.hypot(*(landmarks[1] - landmarks[0])))


def estimated_roll(landmarks: NDArray[np.floating]) -> float:
    """The angle of the line between the eyes of five landmarks (5 x 2), in degrees; positive where it falls to the right."""
    across = landmarks[1] - landmarks[0]
    return float(np.degrees(np.arctan2(across[1], across[0])))


def estimated_yaw(landmarks: NDArray[np.floating]) -> float:
    """Estimate the yaw of the head from five landmarks.

    The nose stands out of the plane of eyes and mouth by about half of their mean width, so a turn moves it from their
    middle by tan(yaw) times that half. The estimate is good to a few degrees up to 60.

    Args:
        landmarks: 5 x 2, in any unit.

    Returns:
        Degrees, positive for a camera on the sitter's left; 0 if all points coincide.
    """
    left, right, nose, mouth_left, mouth_right = np.asarray(landmarks, np.float64)
    across = right - left + mouth_right - mouth_left
    width = float(np.hypot(*across))
    if width == 0:
        return 0.0
    moved = (nose - (left + right + mouth_left + mouth_right) / 4) @ across / width
    return float(np.degrees(np.arctan2(-moved, width / 4)))
