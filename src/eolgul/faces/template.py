"""Align a face: the similarity transform from five landmarks to the 112x112 template, and the crop made with it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError, Reason

BOX_NAME = "box-112-v1"
SIZE = 112
# Left eye, right eye, nose, left and right mouth corner (as seen in the image), x y in pixels of a 112x112 picture.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float64
)
_SHRINK = 0.5


def similarity_transform(source: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.float64]:
    """Fit rotation, uniform scale and translation by least squares (Umeyama 1991, doi:10.1109/34.88573).

    Args:
        source: K x 2.
        target: K x 2.

    Returns:
        The 2 x 3 matrix that maps `source` to `target`, never a reflection.

    Raises:
        ValueError: All source points coincide.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    from_centre, to_centre = source - source_mean, target - target_mean
    variance = (from_centre**2).sum() / len(source)
    if variance == 0:
        raise ValueError("the landmarks all lie in one place")
    u, singular, vt = np.linalg.svd(to_centre.T @ from_centre / len(source))
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    linear = (singular * signs).sum() / variance * (u * signs @ vt)
    return np.column_stack([linear, target_mean - linear @ source_mean])


def align_face(image: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Cut out a face, aligned to the template.

    Sampling is bilinear. A face that shrinks to less than half is first averaged down (area interpolation), since bilinear
    sampling alone would skip pixels and alias.

    Args:
        image: uint8 RGB, H x W x 3.
        landmarks: 5 x 2, in pixels.

    Returns:
        uint8 RGB, 112 x 112 x 3, black outside the image.
    """
    matrix = similarity_transform(landmarks, TEMPLATE)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < _SHRINK:
        height, width = image.shape[:2]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        # Pixel centres: x in the original is (x' + 0.5) * ratio - 0.5.
        ratio = np.array([width / size[0], height / size[1]])
        matrix = np.column_stack([matrix[:, :2] * ratio, matrix[:, 2] + matrix[:, :2] @ (0.5 * ratio - 0.5)])
    warped = cv2.warpAffine(image, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderValue=0)
    return np.asarray(warped, np.uint8)


def crop_box(image: NDArray[np.uint8], box: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Crop a box to 112 x 112 without alignment, as the original project does; proportions are not kept.

    Args:
        image: uint8 RGB, H x W x 3.
        box: x1 y1 x2 y2, in pixels.

    Returns:
        uint8 RGB, 112 x 112 x 3; area averages where the box shrinks.

    Raises:
        InputError: `no_face` if the box lies outside the image.
    """
    height, width = image.shape[:2]
    x1, y1 = (max(0, int(value)) for value in box[:2])
    x2, y2 = min(width, int(box[2])), min(height, int(box[3]))
    if x2 <= x1 or y2 <= y1:
        raise InputError("the face's box lies outside the image", Reason.NO_FACE)
    shrinks = min(x2 - x1, y2 - y1) > SIZE
    resized = cv2.resize(
        image[y1:y2, x1:x2], (SIZE, SIZE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return np.asarray(resized, np.uint8)
