"""Figures of a face image: sharpness, brightness, contrast, distance between the eyes, and yaw of the head."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_MARGIN = 16  # of the 112 pixels on each side: there may be hair, background, or black from outside the picture


def picture_quality(face: NDArray[np.uint8]) -> dict[str, float]:
    """Measure the middle 80 x 80 pixels of an aligned face in grey levels, so that faces are comparable.

    Args:
        face: uint8 RGB, 112 x 112 x 3.

    Returns:
        `sharpness`: variance of the Laplacian (Pech-Pacheco et al. 2000); `brightness`: mean; `contrast`: standard
        deviation; all of grey levels 0…255.
    """
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    return {
        "sharpness": float(cv2.Laplacian(grey, cv2.CV_32F).var()),
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
    }


def eye_distance(landmarks: NDArray[np.floating]) -> float:
    """The distance between the eyes of five landmarks (5 x 2), in their unit."""
    return float(np.hypot(*(landmarks[1] - landmarks[0])))


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
