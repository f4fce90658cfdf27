"""Degrade aligned faces as bad photos are: blurred, too small, cut off, in bad light, noisy, compressed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eolgul.faces.quality import defects, eye_distance, picture_quality
from eolgul.faces.template import SIZE, TEMPLATE

Face = NDArray[np.uint8]
EYES = eye_distance(TEMPLATE)  # pixels between the eyes of an aligned face


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of degradation.

    Attributes:
        name: Its name in `calibration.json`.
        measures: The measures that show it, and that its limits are of.
        strengths: From weak to strong.
        apply: Degrades uint8 RGB 112 x 112 x 3 to a strength; noise comes from the generator.
        known: What is known of a face of a strength by construction: `cut`, `eye_distance`.
        outside: The pixels outside the picture at a strength, as an index.
    """

    name: str
    measures: tuple[str, ...]
    strengths: tuple[float, ...]
    apply: Callable[[Face, float, np.random.Generator], Face]
    known: Callable[[float], dict[str, float]] = lambda _: {}
    outside: Callable[[float], Any] | None = None

    def degrade(self, face: Face, strength: float, random: np.random.Generator) -> tuple[Face, dict[str, float]]:
        """The degraded face, and its measures as the service finds them in a photo."""
        changed = self.apply(face, strength, random)
        inside = None
        if self.outside is not None:
            inside = np.ones(face.shape[:2], bool)
            inside[self.outside(strength)] = False
        measured = {"cut": 0.0, "eye_distance": EYES, **picture_quality(changed, inside), **defects(changed, inside)}
        return changed, measured | self.known(strength)


def _blur(face: Face, sigma: float, random: np.random.Generator) -> Face:
    return np.asarray(cv2.GaussianBlur(face, (0, 0), sigma), np.uint8)


def _shake(angle: float) -> Callable[[Face, float, np.random.Generator], Face]:
    def apply(face: Face, length: float, random: np.random.Generator) -> Face:
        side = 2 * math.ceil(length / 2) + 1
        kernel = np.zeros((side, side), np.float32)
        reach = length / 2 * np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
        for along in np.linspace(-1, 1, 4 * side):
            x, y = side // 2 + along * reach
            kernel[round(y), round(x)] += 1
        return np.asarray(cv2.filter2D(face, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE), np.uint8)

    return apply


def _shrink(face: Face, eyes: float, random: np.random.Generator) -> Face:
    side = max(2, round(SIZE * eyes / EYES))
    small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR), np.uint8)


def _strip(edge: str) -> Callable[[float], Any]:
    def strip(share: float) -> Any:
        pixels = round(share * SIZE)
        return {"top": np.s_[:pixels], "bottom": np.s_[SIZE - pixels :], "side": np.s_[:, :pixels]}[edge]

    return strip


def _cut(edge: str) -> Kind:
    strip = _strip(edge)

    def apply(face: Face, share: float, random: np.random.Generator) -> Face:
        cut = face.copy()
        cut[strip(share)] = 0  # as `align_face` leaves it
        return cut

    return Kind(
        f"cut_{edge}",
        ("cut",),
        (0.05, 0.15, 0.3, 0.45),
        apply,
        known=lambda share: {"cut": round(share * SIZE) / SIZE},
        outside=strip,
    )


def _scale(face: Face, factor: float, random: np.random.Generator) -> Face:
    return np.asarray(np.clip(np.rint(face.astype(np.float32) * factor), 0, 255), np.uint8)


def _noise(face: Face, deviation: float, random: np.random.Generator) -> Face:
    return np.asarray(np.clip(np.rint(face + random.normal(0, deviation, face.shape)), 0, 255), np.uint8)


def _photo_noise(face: Face, deviation: float, random: np.random.Generator) -> Face:
    """Noise of a photo, whose pixels alignment has interpolated."""
    return _blur(_noise(face, deviation, random), 0.6, random)


def _jpeg(face: Face, quality: float, random: np.random.Generator) -> Face:
    _, data = cv2.imencode(".jpg", face[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # it was encoded here
    return np.ascontiguousarray(decoded[..., ::-1], np.uint8)


def _then(first: Callable[..., Face], second: Callable[..., Face], strength: float) -> Callable[..., Face]:
    """The first to the strength of a kind, the second always to `strength`: two faults at once."""

    def apply(face: Face, own: float, random: np.random.Generator) -> Face:
        return second(first(face, own, random), strength, random)

    return apply


NONE = Kind("none", (), (0.0,), lambda face, strength, random: face)
# Strengths in pixels of the aligned face, whose eyes are 35 apart, unless said otherwise.
KINDS: tuple[Kind, ...] = (
    Kind("blur", ("detail",), (1.0, 1.5, 2.0, 3.0, 5.0), _blur),  # standard deviation of a Gaussian
    Kind("motion", ("detail",), (3.0, 5.0, 9.0, 15.0), _shake(0)),  # length of a movement to the side
    Kind(
        "motion_slanted", ("detail",), (5.0, 9.0, 15.0), _shake(30)
    ),  # between the directions that detail is measured in
    Kind(
        "shrink",  # pixels between the eyes of the photo
        ("detail", "eye_distance"),
        (12.0, 9.0, 6.0, 4.0),
        _shrink,
        known=lambda eyes: {"eye_distance": eyes},
    ),
    *(_cut(edge) for edge in ("side", "top", "bottom")),  # share of the face
    Kind("dark", ("brightness",), (0.6, 0.3, 0.1, 0.03), _scale),  # factor of the grey levels
    Kind("bright", ("overexposed",), (1.25, 1.5, 2.0, 4.0), _scale),  # the same
    Kind("noise", ("noise",), (5.0, 15.0, 30.0, 60.0), _noise),  # standard deviation in grey levels
    Kind("jpeg", ("texture",), (50.0, 30.0, 15.0, 5.0), _jpeg),  # quality
    Kind("blur_noise", ("detail",), (2.0, 3.0, 5.0), _then(_blur, _photo_noise, 12.0)),  # as blur, with noise over it
    Kind("shrink_jpeg", ("detail",), (9.0, 6.0), _then(_shrink, _jpeg, 30.0)),  # as shrink, enlarged by someone else
)
