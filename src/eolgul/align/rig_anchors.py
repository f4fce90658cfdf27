"""Landmarks for pictures in which no face was detected, from other pictures by the same camera of a fixed rig.

In a fixed rig a camera sees the same person at the same place, whatever the light (the published protocol of mixface):
landmarks annotated or detected under another condition can be used. MTCNN's O-Net decides whether a face is there at all.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eolgul.faces.mtcnn import Detector
from eolgul.faces.quality import estimated_yaw
from eolgul.faces.template import TEMPLATE, similarity_transform

Reals = NDArray[np.float64]
# The cascade's own threshold is 0.7. At the right place dark and covered faces score above this, other places below.
LIKENESS = 0.3
_JITTERS = (-4.0, 0.0, 4.0)
# MTCNN's box around a face, in pixels of the aligned picture: its side, its centre, and how far the centre moves with the
# nose when the head turns by 90 degrees (medians over cameras C3…C11).
_SIDE, _CENTRE, _TURN = 108.0, (55.5, 62.0), 25.0


@dataclass(frozen=True, slots=True)
class Place:
    """The person, resolution, camera and conditions of a picture, which decide whose landmarks it can use."""

    identity: str
    resolution: str
    camera: str
    accessory: str
    expression: str

    @property
    def view(self) -> tuple[str, str, str]:
        """Person, resolution and camera: pictures of one view show the face at one place."""
        return self.identity, self.resolution, self.camera


@dataclass
class Anchors:
    """The landmarks (5 x 2) known so far, by view."""

    _annotated: dict[tuple[str, str, str], list[tuple[Place, Reals]]] = field(default_factory=lambda: defaultdict(list))
    _detected: dict[tuple[str, str, str], list[tuple[Place, Reals]]] = field(default_factory=lambda: defaultdict(list))

    def add_annotated(self, place: Place, landmarks: Reals) -> None:
        """Add landmarks from an annotation."""
        self._annotated[place.view].append((place, landmarks))

    def add_detected(self, place: Place, landmarks: Reals) -> None:
        """Add landmarks from a detection."""
        self._detected[place.view].append((place, landmarks))

    def landmarks(self, place: Place) -> Reals | None:
        """Landmarks for a picture taken at `place`: from annotations of its view, else from detections.

        The median over the pictures with the nearest conditions is taken: the same accessory and expression, else the same
        accessory, else the same expression, else any. None when nothing is known of the view.
        """
        for known in (self._annotated, self._detected):
            rows = known.get(place.view, [])
            if not rows:
                continue
            nearness = [
                2 * (one.accessory == place.accessory) + (one.expression == place.expression) for one, _ in rows
            ]
            nearest = [points for near, (_, points) in zip(nearness, rows, strict=True) if near == max(nearness)]
            return np.asarray(np.median(nearest, axis=0), np.float64)
        return None


def face_box(landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    """The square box (x1, y1, x2, y2 in pixels) of MTCNN around a face with these landmarks (5 x 2)."""
    matrix = similarity_transform(TEMPLATE, landmarks)
    turned = _TURN * np.sin(np.radians(estimated_yaw(landmarks)))
    centre = matrix[:, :2] @ np.array([_CENTRE[0] + turned, _CENTRE[1]]) + matrix[:, 2]
    half = _SIDE / 2 * np.hypot(matrix[0, 0], matrix[1, 0])
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


def likeness(detector: Detector, image: NDArray[np.uint8], landmarks: NDArray[np.floating]) -> float:
    """The O-Net's face score (0 to 1) at the landmarks: the best over a few nearby boxes.

    Args:
        detector: MTCNN.
        image: height x width x 3, uint8 RGB.
        landmarks: 5 x 2, pixels.
    """
    box = face_box(landmarks)
    unit = (box[2] - box[0]) / _SIDE
    moves = [np.array([x, y, x, y], np.float32) * unit for x in _JITTERS for y in _JITTERS]
    return float(detector.likeness(image, np.stack([box + move for move in moves])).max())
