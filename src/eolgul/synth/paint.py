"""Skin: one texture per person, painted on a cylinder around the rest pose so that it follows every expression.

The texture's columns are the angle around the head's axis (0 in front), its rows the height in the base mesh. Colours are
linear RGB reflectances: a base tone that melanin darkens and blood reddens, as in real skin, then local paint.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from PIL import Image

from eolgul.synth.mesh import SKIN, Reals, load_base, quad_triangles
from eolgul.synth.person import Person, generator

# The cylinder: its axis is at (x, z) = (0, AXIS_Z), rows go from TOP down to BOTTOM (decimetres of the base mesh).
AXIS_Z, CENTRE_Y, TOP, BOTTOM = 0.55, 7.35, 8.55, 5.65
ROWS, COLUMNS = 448, 1024

# Reflectance of light East Asian skin, and the change of its logarithm per unit of melanin or blood.
_BASE = np.array([0.56, 0.365, 0.265], np.float32)
_MELANIN = np.array([-0.22, -0.34, -0.46], np.float32)
_DEEP_MELANIN = np.array([-0.33, -0.37, -0.40], np.float32)
_BLOOD = np.array([-0.02, -0.20, -0.15], np.float32)


def cylinder(points: Reals) -> tuple[Reals, Reals]:
    """Fractional texture (rows, columns) of rest-pose points (N, 3)."""
    column = (np.arctan2(points[:, 0], points[:, 2] - AXIS_Z) / (2 * np.pi) + 0.5) * COLUMNS - 0.5
    row = (TOP - points[:, 1]) / (TOP - BOTTOM) * ROWS - 0.5
    return row, column


@cache
def _grid() -> tuple[Reals, Reals, Reals]:
    """Angle (radians), height (decimetres) and elevation from the skull's centre (degrees) of every texel: (ROWS, COLUMNS)."""
    angle = ((np.arange(COLUMNS, dtype=np.float32) + 0.5) / COLUMNS - 0.5) * 2 * np.pi
    y = TOP - (np.arange(ROWS, dtype=np.float32) + 0.5) / ROWS * (TOP - BOTTOM)
    A, Y = np.meshgrid(angle, y)
    base = load_base()
    scene = EmbreeScene()
    TriangleMesh(scene, base.vertices, quad_triangles(base.quads[base.material == SKIN]))
    outward = np.stack([np.sin(A), np.zeros_like(A), np.cos(A)], -1).reshape(-1, 3).astype(np.float32)
    origin = outward * 4
    origin[:, 1] = Y.ravel()
    origin[:, 2] += AXIS_Z
    hit = scene.run(origin, -outward, query="INTERSECT", output=True)
    radius = np.where(hit["primID"] >= 0, 4 - hit["tfar"], 0.05).reshape(A.shape)
    A, Y = A.astype(np.float32), Y.astype(np.float32)
    return A, Y, np.degrees(np.arctan2(Y - CENTRE_Y, radius)).astype(np.float32)


@cache
def _front(x: float, y: float) -> tuple[float, float]:
    """The angle and height of the face's surface at (x, y) of the base mesh."""
    vertices = load_base().vertices
    front = vertices[vertices[:, 2] > AXIS_Z]
    near = front[np.argsort((front[:, 0] - x) ** 2 + (front[:, 1] - y) ** 2)[:4]]
    return float(np.arctan2(x, near[:, 2].max() - AXIS_Z)), y


def noise(rng: np.random.Generator, rows: int, columns: int, shape: tuple[int, int] = (ROWS, COLUMNS)) -> Reals:
    """Smooth noise of about unit standard deviation with `rows` × `columns` independent cells, sampled to `shape`."""
    cells = Image.fromarray(rng.standard_normal((rows, columns)).astype(np.float32))
    return np.asarray(cells.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), np.float32)


def _window(angle: float, y: float, half_angle: float, half_y: float) -> tuple[slice, slice]:
    """The slices of texels around a point, so that painting a small detail touches only them."""
    column, row = (angle / (2 * np.pi) + 0.5) * COLUMNS, (TOP - y) / (TOP - BOTTOM) * ROWS
    wide, high = half_angle / (2 * np.pi) * COLUMNS, half_y / (TOP - BOTTOM) * ROWS
    return (
        slice(max(0, int(row - high)), min(ROWS, int(row + high) + 2)),
        slice(max(0, int(column - wide)), min(COLUMNS, int(column + wide) + 2)),
    )


def _blob(x: float, y: float, wide: float, high: float) -> Reals:
    """A soft spot with radii in decimetres around (x, y) on the front of the face, on both sides if x is not 0."""
    A, Y, _ = _grid()
    angle, y = _front(abs(x), y)
    distance = ((np.abs(A) if x else A) - angle) ** 2 / wide**2 + (Y - y) ** 2 / high**2
    spot: Reals = np.exp(-distance)
    return spot


def skin_texture(person: Person, hairline: tuple[Reals, Reals], hair_colour: Reals) -> Reals:
    """Paint a person's skin.

    Args:
        person: whose skin.
        hairline: angles (degrees, ascending from 0) and the lowest elevation of hair there.
        hair_colour: (3,) linear reflectance, for brows, beard and the scalp's stubble.

    Returns:
        (ROWS, COLUMNS, 4) float32: linear RGB and gloss (1 = ordinary skin).
    """
    look = person.look
    rng = generator(person.seed, person.index, 1)
    A, Y, E = _grid()
    melanin = look["melanin"] + look["blotch"] * (0.10 * noise(rng, 9, 20) + 0.07 * noise(rng, 30, 64))
    melanin += 0.06 * noise(rng, 110, 256) + 0.09 * noise(rng, ROWS, COLUMNS)
    blood = look["blood"] + look["blotch"] * (0.16 * noise(rng, 12, 26) + 0.12 * noise(rng, 50, 110))
    blood += 0.9 * look["ruddy"] * _blob(0.42, 6.9, 0.3, 0.26) + 0.5 * look["blush"] * _blob(0.48, 6.98, 0.2, 0.16)
    blood += 0.7 * look["ruddy"] * _blob(0, 6.92, 0.2, 0.16) + 0.35 * _blob(0, 6.25, 0.3, 0.2)
    blood += np.where(np.abs(np.abs(A) - 1.6) < 0.4, 0.5, 0) * (np.abs(Y - 7.1) < 0.4)
    # Thin skin: the lids and the area below them.
    eye_pit = _blob(0.31, 7.2, 0.2, 0.09)
    melanin += 0.8 * look["under_eye"] * eye_pit + 0.55 * _blob(0.31, 7.38, 0.24, 0.09)
    blood += 0.5 * look["under_eye"] * eye_pit + 0.25 * _blob(0.31, 7.3, 0.3, 0.16)
    _paint_lids(look, melanin, blood)
    _paint_spots(rng, look, melanin)
    _paint_wrinkles(rng, look["wrinkles"], melanin, blood)
    # A little melanin yellows the skin; much of it absorbs all colours equally.
    more = np.maximum(melanin - 0.8, 0)[..., None]
    colour = np.log(_BASE) + (melanin[..., None] - more) * _MELANIN + more * _DEEP_MELANIN + blood[..., None] * _BLOOD
    colour = np.exp(np.minimum(colour, -0.15))

    if look["eyeshadow"] > 0:
        shade = look["eyeshadow"] * 0.5 * _blob(0.33, 7.37, 0.24, 0.07)
        tint = np.array([0.34, 0.17, 0.14], np.float32) * (1 + 0.25 * np.float32(look["lip_hue"]))
        colour += shade[..., None] * (np.clip(tint, 0.05, 0.7) - colour)
    _paint_beard(rng, look, colour, hair_colour)
    _paint_brows(rng, look, colour, hair_colour)
    # Stubble above the hair line, so that thin hair never shows a bald scalp.
    lowest = np.interp(np.degrees(np.abs(A)), *hairline) + 2.5 * noise(rng, 3, 160) + look["hair_line"]
    scalp = 0.93 * np.clip((E - lowest + 1) / 5, 0, 1) * (1 - 0.4 * np.exp(-((E - lowest) ** 2) / 16))
    colour += scalp[..., None] * (hair_colour * 1.2 - colour)
    gloss = 1 + 0.5 * _blob(0, 7.0, 0.3, 0.35) + 0.35 * _blob(0, 7.75, 0.5, 0.3) + 0.12 * noise(rng, 60, 128)
    return np.concatenate([colour, (gloss * look["shine"] * (1 - scalp))[..., None]], 2).astype(np.float32)


def _paint_lids(look: Mapping[str, float], melanin: Reals, blood: Reals) -> None:
    """Paint the crease of a double eyelid, at the person's own height over the eye, and an eye liner along the lashes."""
    A, Y, _ = _grid()
    (inner, _), (outer, _) = _front(0.15, 7.29), _front(0.49, 7.29)
    window = _window(0, 7.33, outer + 0.1, 0.16)
    a, y = np.abs(A[window]), Y[window]
    t = (a - inner) / (outer - inner)
    ends = np.clip(6 * t, 0, 1) * np.clip(6 * (1.08 - t), 0, 1)
    lid = 7.285 + 0.05 * np.clip(1 - (2 * t - 1) ** 2, 0, 1)  # the open eye's upper edge
    crease = look["lid_crease"] * ends * np.exp(-(((y - lid - look["lid_height"]) / 0.011) ** 2))
    line = look["liner"] * ends * np.exp(-(((y - lid - 0.004) / 0.012) ** 2))
    melanin[window] += 1.5 * crease + 4.5 * line
    blood[window] += 0.8 * crease


def _paint_spots(rng: np.random.Generator, look: Mapping[str, float], melanin: Reals) -> None:
    """Paint moles (few, dark), freckles (many, on nose and cheeks) and age spots, as extra melanin."""
    A, Y, _ = _grid()
    spots = [(rng.uniform(-0.95, 0.95), rng.uniform(6.15, 7.9), rng.uniform(0.009, 0.024), rng.uniform(2.5, 6))
             for _ in range(int(look["moles"]))]  # fmt: skip
    spots += [(rng.normal(0, 0.42), rng.normal(7.02, 0.16), rng.uniform(0.006, 0.013), look["freckles"] * rng.uniform(0.5, 1.6))
              for _ in range(int(90 * min(1.0, look["freckles"])))]  # fmt: skip
    spots += [(rng.choice([-1, 1]) * rng.uniform(0.4, 1.0), rng.uniform(6.5, 7.5), rng.uniform(0.02, 0.055),
               look["spots"] * rng.uniform(0.3, 1.0)) for _ in range(int(16 * min(1.0, look["spots"])))]  # fmt: skip
    for angle, y, radius, strength in spots:
        window = _window(angle, y, 3 * radius, 3 * radius)
        distance = ((A[window] - angle) ** 2 + (Y[window] - y) ** 2) / radius**2
        melanin[window] += strength * np.exp(-(distance**2))


def _paint_wrinkles(rng: np.random.Generator, depth: float, melanin: Reals, blood: Reals) -> None:
    """Paint forehead lines, crow's feet and the folds from nose to mouth: thin dark lines, deeper with age."""
    # Both ends (x, y) of a line on the left half of the face, how far it bends, its strength and width.
    lines = [((0.2, 6.93), (0.33, 6.6), 0.03, 0.05 + 0.5 * depth, 0.026)]
    if depth > 0.25:
        faint = 0.8 * (depth - 0.2)
        for k in range(3):
            lines.append(((0.0, 7.78 + 0.12 * k + rng.normal(0, 0.015)), (0.45, 7.75 + 0.12 * k), 0.02, faint, 0.012))
            lines.append(((0.52, 7.3 - 0.03 * k), (0.62, 7.36 - 0.07 * k), 0.0, faint, 0.01))
        lines.append(((0.18, 7.14), (0.42, 7.12), -0.03, 0.6 * depth, 0.014))
    A, Y, _ = _grid()
    for start, end, bend, strength, width in lines:
        (a0, y0), (a1, y1) = _front(*start), _front(*end)
        window = _window(0, (y0 + y1) / 2, max(a0, a1) + 0.1, abs(y1 - y0) / 2 + 0.1)
        a, y = np.abs(A[window]), Y[window]
        steep = abs(a1 - a0) < abs(y1 - y0)
        t = np.clip((y - y0) / (y1 - y0), 0, 1) if steep else np.clip((a - a0) / (a1 - a0), 0, 1)
        bent = bend * np.sin(np.pi * t)
        u, v = a0 + t * (a1 - a0) + bent * steep, y0 + t * (y1 - y0) + bent * (not steep)
        mark = strength * np.exp(-((a - u) ** 2 + (y - v) ** 2) / width**2)
        melanin[window] += mark
        blood[window] += 0.5 * mark


def _paint_beard(rng: np.random.Generator, look: Mapping[str, float], colour: Reals, hair_colour: Reals) -> None:
    """Paint a beard: a bluish shadow of stubble on lip, chin and jaw, or from 0.7 on short dark hair."""
    if look["beard"] + look["moustache"] <= 0:
        return
    grown = float(np.clip((max(look["beard"], look["moustache"]) - 0.7) / 0.8, 0, 1))
    jaw = 1.0 if look["beard_shape"] > 0.45 else 0.8 - 0.75 * grown  # the others wear a goatee
    lip = _blob(0.1, 6.79, 0.17, 0.055) * look["moustache"]
    cheek = np.maximum(_blob(0.5, 6.42, 0.28, 0.2), grown * _blob(0.64, 6.7, 0.13, 0.3))
    chin = np.maximum(_blob(0, 6.27, 0.3, 0.15), 0.75 * jaw * cheek) * look["beard"]
    edge = 1 + 1.5 * grown
    cover = np.clip(edge * (np.clip(lip + chin, 0, 1.2) - 0.5) + 0.5, 0, 1) if grown else np.clip(lip + chin, 0, 1)
    cover = cover * np.clip(0.5 + 0.35 * grown + 0.35 * noise(rng, ROWS, COLUMNS), 0, 1)
    shadow = np.array([0.09, 0.085, 0.085], np.float32)
    tint = shadow + grown * (np.minimum(1.3 * hair_colour + 0.004, 0.12) - shadow)
    colour += cover[..., None] * (0.55 + 0.38 * grown) * (tint - colour)


def _paint_brows(rng: np.random.Generator, look: Mapping[str, float], colour: Reals, hair_colour: Reals) -> None:
    """Paint brows of single slanting strokes: the feature by which faces differ most."""
    A, Y, _ = _grid()
    height = 7.465 + look["brow_height"]
    inner, outer = _front(0.135 + look["brow_inner"], 7.5)[0], _front(0.56 * look["brow_length"], 7.5)[0]
    window = _window(0, height, outer + 0.15, 0.25)
    a, y = A[window], Y[window]
    tint = np.minimum(hair_colour, 0.05) * 0.9 + 0.006
    for side in (-1.0, 1.0):
        t = (side * a - inner) / (outer - inner)
        inside = np.clip(t, 0, 1)
        # The arch peaks at two thirds, the tail falls, the tilt lifts the outer end.
        arch = 0.025 + 0.022 * look["brow_arch"]
        middle = height + arch * (1 - ((inside - 0.62) / 0.62) ** 2) - 0.02 + 0.05 * look["brow_tilt"] * (inside - 0.4)
        thick = 0.046 * look["brow_thick"] * (1 - look["brow_taper"] * inside**1.6) * np.clip(0.55 + 3 * inside, 0, 1)
        # Strokes lean outward: hairs are lines of constant t minus a share of the height.
        lean = (t * 0.42 - (y - middle) * (0.9 - 0.6 * inside)) * 420
        strokes = np.interp(lean, np.arange(-140, 420), rng.uniform(0, 1, 560))
        edge = np.clip((thick * (0.85 + 0.5 * strokes) - np.abs(y - middle)) / (0.35 * thick + 0.006), 0, 1)
        ends = np.clip(t * 9 + 0.5, 0, 1) * np.clip((1 - t) * 6 + 0.3, 0, 1) * (t > -0.1) * (t < 1.06)
        cover = np.clip(edge * ends * (0.6 + 0.5 * strokes) * look["brow_dark"], 0, 0.96)[..., None]
        colour[window] += cover * (tint - colour[window])


def mip(texture: Reals) -> Reals:
    """Halve a texture (H, W, C): means of 2×2 texels."""
    h, w, c = texture.shape
    halved: Reals = texture.reshape(h // 2, 2, w // 2, 2, c).mean((1, 3), dtype=np.float32)
    return halved


def sample(texture: Reals, row: Reals, column: Reals) -> Reals:
    """Sample a texture bilinearly.

    Args:
        texture: (H, W, C), at full size or halved by `mip`.
        row: (N,) rows in the full-size texture.
        column: (N,) columns in the full-size texture; they wrap around the head.

    Returns:
        (N, C).
    """
    scale = np.float32(texture.shape[0] / ROWS)
    r = np.clip((row + 0.5) * scale - 0.5, 0, texture.shape[0] - 1.001)
    c = (column + 0.5) * scale - 0.5
    r0, c0 = np.floor(r).astype(np.int32), np.floor(c).astype(np.int32)
    fr, fc = (r - r0).astype(np.float32)[:, None], (c - c0).astype(np.float32)[:, None]
    width = texture.shape[1]
    flat = texture.reshape(-1, texture.shape[2])
    left, right = r0 * width + c0 % width, r0 * width + (c0 + 1) % width
    above = flat[left] * (1 - fc) + flat[right] * fc
    below = flat[left + width] * (1 - fc) + flat[right + width] * fc
    sampled: Reals = above * (1 - fr) + below * fr
    return sampled
