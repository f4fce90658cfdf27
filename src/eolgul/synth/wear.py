"""K-FACE's glasses (S002, S003, S004, S006) as geometry that fits a face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eolgul.synth.mesh import FRAME, I32, LENS, Reals


@dataclass(frozen=True)
class Piece:
    """Triangles (T, 3) of one material over points (V, 3) in head coordinates."""

    points: Reals
    triangles: I32
    material: int


@dataclass(frozen=True)
class Glasses:
    """A pair of glasses.

    Attributes:
        wide, high: half sizes of a rim, decimetres.
        tube: radius of the rim's tube, decimetres.
        square: exponent of the rim's superellipse: 2 is an ellipse, larger is squarer.
        colour: linear reflectance of the frame.
        dark: whether there are dark lenses; clear lenses are not drawn.
    """

    wide: float
    high: float
    tube: float
    square: float
    colour: tuple[float, float, float]
    dark: bool = False


GLASSES = {
    "S002": Glasses(0.265, 0.20, 0.014, 2.6, (0.20, 0.19, 0.18)),
    "S003": Glasses(0.285, 0.215, 0.030, 3.4, (0.012, 0.009, 0.008)),
    "S004": Glasses(0.315, 0.245, 0.024, 3.0, (0.010, 0.010, 0.011), dark=True),
    "S006": Glasses(0.285, 0.215, 0.030, 3.4, (0.012, 0.009, 0.008)),
}
HATS = ("S005", "S006")
# Colours: metal rims are silver, gold or gunmetal, plastic ones black to brown.
_METALS = np.array([(0.20, 0.19, 0.18), (0.30, 0.20, 0.09), (0.05, 0.05, 0.055)])
_PLASTICS = np.array([(0.012, 0.009, 0.008), (0.045, 0.022, 0.012), (0.02, 0.022, 0.035)])


def draw_glasses(accessory: str, rng: np.random.Generator) -> Glasses:
    """Draw a person's own pair of the accessory's kind: size, shape and colour vary."""
    kind = GLASSES[accessory]
    wide, high, tube = rng.uniform((0.92, 0.82, 0.75), (1.08, 1.12, 1.25))
    colours = _METALS if accessory == "S002" else _PLASTICS
    colour = tuple(colours[int(rng.integers(len(colours)))].tolist())
    return Glasses(kind.wide * wide, kind.high * high, kind.tube * tube, kind.square * float(rng.uniform(0.8, 1.3)),
                   kind.colour if kind.dark else colour, kind.dark)  # fmt: skip


def glasses(kind: Glasses, eyes: Reals, bridge: Reals, ears: Reals, beside: float) -> list[Piece]:
    """Fit glasses to a face.

    Args:
        kind: the pair.
        eyes: (2, 3) right and left eye, decimetres.
        bridge: (3,) the nose between the eyes.
        ears: (2, 3) tops of the right and the left ear.
        beside: half the head's width in front of the ears: the arms pass between ear and head.
    """
    middle = eyes.mean(0)
    plane = max(float(eyes[:, 2].max()) + 0.14, float(bridge[2]) + 0.05)
    apart = abs(float(eyes[1, 0] - eyes[0, 0])) / 2
    centre_x = max(apart * 1.02, kind.wide + 0.075)
    turn = np.linspace(0, 2 * np.pi, 41)[:-1]
    c, s = np.cos(turn), np.sin(turn)
    ring = np.stack([np.sign(c) * np.abs(c) ** (2 / kind.square) * kind.wide,
                     np.sign(s) * np.abs(s) ** (2 / kind.square) * kind.high], 1)  # fmt: skip
    pieces = []
    for side in (-1, 1):
        rim = np.zeros((40, 3), np.float32)
        rim[:, 0] = middle[0] + side * centre_x + ring[:, 0]
        rim[:, 1] = middle[1] - 0.035 + ring[:, 1]
        rim[:, 2] = plane - 0.22 * (rim[:, 0] - middle[0]) ** 2
        pieces.append(_tube(rim, kind.tube, closed=True))
        if kind.dark:
            points = np.concatenate([rim, rim.mean(0, keepdims=True)]).astype(np.float32)
            fan = np.stack([np.arange(40), (np.arange(40) + 1) % 40, np.full(40, 40)], 1).astype(np.int32)
            pieces.append(Piece(points, fan, LENS))
        hinge = np.array([middle[0] + side * (centre_x + kind.wide), middle[1] + 0.05, 0])
        hinge[2] = plane - 0.22 * (hinge[0] - middle[0]) ** 2 - 0.01
        ear = ears[(side + 1) // 2] + np.array([0, 0.03, 0.02])
        ear[0] = side * (beside + 0.02 + kind.tube)
        # The arm bends at the hinge and follows the temple in a slight bow to the ear.
        corner = hinge + np.array([0.25 * (ear[0] - hinge[0]), 0, -0.06])
        bow = corner + 0.5 * (ear - corner)
        bow[0] += 0.25 * (ear[0] - corner[0])
        behind = ear + np.array([-side * 0.03, -0.12, -0.22])
        pieces.append(_tube(np.stack([hinge, corner, bow, ear, behind]).astype(np.float32), kind.tube * 0.9))
    inner = centre_x - kind.wide
    x = np.linspace(-inner, inner, 9)
    arch = np.stack([middle[0] + x, middle[1] + 0.02 + 0.05 * (1 - (x / inner) ** 2), plane + 0 * x], 1)
    pieces.append(_tube(arch.astype(np.float32), kind.tube))
    return pieces


def _tube(path: Reals, radius: float, *, closed: bool = False) -> Piece:
    """Make a hexagonal tube along a path (N, 3)."""
    n, sides = len(path), 6
    along = (np.roll(path, -1, 0) - np.roll(path, 1, 0)) if closed else np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    # Any direction that is not parallel to the path: it differs between the flat rims and the long arms.
    helper = np.where(np.abs(along[:, 2:3]) < 0.8, np.array([[0, 0, 1.0]]), np.array([[0, 1.0, 0]]))
    first = np.cross(along, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(along, first)
    turn = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    offsets = first[:, None] * np.cos(turn)[None, :, None] + second[:, None] * np.sin(turn)[None, :, None]
    points = (path[:, None] + radius * offsets).reshape(-1, 3).astype(np.float32)
    i, k = np.meshgrid(np.arange(n if closed else n - 1), np.arange(sides), indexing="ij")
    j, m = (i + 1) % n, (k + 1) % sides
    a, b, c, d = (p.ravel() for p in (i * sides + k, j * sides + k, j * sides + m, i * sides + m))
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32)
    return Piece(points, triangles, FRAME)
