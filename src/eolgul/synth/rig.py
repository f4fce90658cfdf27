"""K-FACE's studio: 20 cameras, 30 lights and three expressions, in K-FACE's published layout.

World coordinates are those of the studio: decimetres, x to the sitter's left, y up, z from the sitter to camera C7. The
origin is the middle of the sitter's head, at which all cameras look.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from eolgul.synth.mesh import Reals
from eolgul.synth.person import Person

# Width and height of the three resolutions, pixels.
RESOLUTIONS = {"High": (864, 576), "Middle": (346, 230), "Low": (173, 115)}
# Height of the frame at the sitter (the head fills about two thirds of it) and distance of the cameras, decimetres.
_FRAME_HEIGHT, _DISTANCE = 3.5, 14.0


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks at the origin.

    Attributes:
        yaw, pitch: direction of its position, degrees; yaw is positive on the sitter's left, pitch above.
        focal: focal length in pixels.
        width, height: image size in pixels.
        roll: degrees, counter-clockwise in the image.
        distance: from the origin, decimetres.
        centre: where the optical axis meets the image, pixels.
        to_pixels: (2, 3) affine map from this camera's own image plane to the pixels that are drawn: the identity for an
            image of the rig, the alignment's similarity for an aligned crop. Pixel centres are at whole numbers.
    """

    yaw: float
    pitch: float
    focal: float
    width: int
    height: int
    roll: float = 0.0
    distance: float = _DISTANCE
    centre: tuple[float, float] = (0.0, 0.0)
    to_pixels: tuple[tuple[float, float, float], tuple[float, float, float]] = ((1, 0, 0), (0, 1, 0))

    def axes(self) -> Reals:
        """(3, 3) unit vectors in world coordinates, in rows: right and down in the image, and into the image."""
        a, b, c = np.radians([self.yaw, self.pitch, self.roll])
        back = np.array([np.sin(a) * np.cos(b), np.sin(b), np.cos(a) * np.cos(b)])
        right = np.array([np.cos(a), 0, -np.sin(a)])
        down = np.cross(right, back) * -1
        if down[1] > 0:
            down = -down
        turned = np.stack([np.cos(c) * right + np.sin(c) * down, -np.sin(c) * right + np.cos(c) * down, -back])
        return turned.astype(np.float32)

    def position(self) -> Reals:
        """(3,) the camera's position in world coordinates."""
        position: Reals = (-self.distance * self.axes()[2]).astype(np.float32)
        return position

    def project(self, points: Reals) -> Reals:
        """Project world points (N, 3) to pixels (N, 2) float64 of the image that is drawn."""
        local = (points.astype(np.float64) - self.position()) @ self.axes().T.astype(np.float64)
        plane = local[:, :2] / local[:, 2:] * self.focal + np.array(self.centre)
        matrix = np.array(self.to_pixels, np.float64)
        projected: Reals = plane @ matrix[:, :2].T + matrix[:, 2]
        return projected

    def rays(self, pixels: Reals) -> Reals:
        """Unit directions (N, 3) float32 of the rays through pixels (N, 2)."""
        matrix = np.array(self.to_pixels, np.float64)
        plane = (pixels - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T - np.array(self.centre)
        local = np.concatenate([plane / self.focal, np.ones((len(pixels), 1))], 1).astype(np.float32)
        rays = local @ self.axes()
        unit: Reals = (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def aligned(self, matrix: Reals, size: int) -> Camera:
        """Compose this camera with a (2, 3) pixel map to a `size` × `size` crop: no image is resampled."""
        rows = tuple(tuple(float(x) for x in row) for row in matrix)
        return replace(self, width=size, height=size, to_pixels=rows)  # type: ignore[arg-type]


_HIGH_AND_LOW = {14: (45, 30), 15: (15, 30), 16: (0, 30), 17: (-15, 30), 18: (-45, 30), 19: (30, -15), 20: (-30, -15)}


def camera_angles(name: str) -> tuple[float, float]:
    """(yaw, pitch) in degrees of a camera C1…C20; ValueError for another name."""
    number = _number(name, "C", 20)
    if number <= 13:
        return 90.0 - 15.0 * (number - 1), 0.0
    yaw, pitch = _HIGH_AND_LOW[number]
    return float(yaw), float(pitch)


def camera(name: str, resolution: str) -> Camera:
    """The camera C1…C20 at resolution "High", "Middle" or "Low"; ValueError for another name."""
    yaw, pitch = camera_angles(name)
    return free_camera(yaw, pitch, *RESOLUTIONS[resolution])


def free_camera(yaw: float, pitch: float, width: int, height: int) -> Camera:
    """A camera in any direction, at the rig's distance and with its field of view."""
    middle = ((width - 1) / 2, (height - 1) / 2)
    return Camera(yaw, pitch, height / _FRAME_HEIGHT * _DISTANCE, width, height, centre=middle)


@dataclass(frozen=True)
class Light:
    """A studio light: a distant soft box in one direction, and the light that the walls reflect.

    Attributes:
        yaw, pitch: its direction from the sitter, degrees, as for cameras.
        lux: illuminance at the sitter's face.
        spread: half the angle that the soft box covers, degrees.
        fill: the reflected light as a share of the lamp's; None: the studio's, which depends on the lamp's direction.
    """

    yaw: float
    pitch: float
    lux: float
    spread: float = 9.0
    fill: float | None = None

    def directions(self) -> Reals:
        """(K, 3) unit vectors to points of the soft box, for soft shadows."""
        offsets = ((-1.0, -0.4), (0.0, 0.9), (1.0, -0.4))
        a = np.radians([self.yaw + self.spread * dx for dx, _ in offsets])
        b = np.radians([self.pitch + self.spread * dy for _, dy in offsets])
        return np.stack([np.sin(a) * np.cos(b), np.sin(b), np.cos(a) * np.cos(b)], 1).astype(np.float32)


def light(name: str) -> Light:
    """The light L1…L30: seven strengths from the front, four from above, four from below, three from each of five sides.

    ValueError for another name.
    """
    number = _number(name, "L", 30)
    if number <= 7:
        return Light(0, 14, (1000, 400, 200, 150, 100, 40, 0)[number - 1], 16)
    if number <= 15:
        above, step = divmod(number - 8, 4)
        return Light(0, 30 if above == 0 else -15, (400, 200, 100, 40)[step], 12)
    side, step = divmod(number - 16, 3)
    return Light((90, 45, 0, -45, -90)[side], 0, (400, 200, 100)[step], 9)


# Facial actions (ARKit names, both sides) of the three expressions at full strength.
_EXPRESSIONS = {
    "E01": {},
    "E02": {"mouthSmile": 0.85, "cheekSquint": 0.55, "eyeSquint": 0.3, "mouthUpperUp": 0.45, "mouthDimple": 0.2,
            "mouthLowerDown": 0.12, "jawOpen": 0.05},
    "E03": {"browDown": 0.7, "eyeSquint": 0.35, "noseSneer": 0.2, "mouthFrown": 0.55, "mouthPress": 0.3,
            "mouthShrugLower": 0.25},
}  # fmt: skip
_UNPAIRED = ("jawOpen", "mouthShrugLower")


def expression_actions(person: Person, name: str) -> dict[str, float]:
    """Target names and weights of expression E01…E03 as this person acts it; ValueError for another name."""
    if name not in _EXPRESSIONS:
        raise ValueError(f"expression {name!r}: expected E01, E02 or E03")
    actions = {}
    for (action, weight), strength in zip(_EXPRESSIONS[name].items(), person.acting, strict=False):
        for side in [""] if action in _UNPAIRED else ["Left", "Right"]:
            actions[f"faceunits/{action}{side}"] = weight * strength
    return actions


def _number(name: str, letter: str, highest: int) -> int:
    match = re.fullmatch(rf"{letter}(\d+)", name)
    if match is None or not 1 <= int(match[1]) <= highest:
        raise ValueError(f"{name!r}: expected {letter}1 to {letter}{highest}")
    return int(match[1])
