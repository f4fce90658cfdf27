"""Hair and cap: shells around the skull, combed from the crown.

A shell is a grid with one column per angle around the head and rows from the crown down. Its points follow the person's
skull (rays through the base mesh select vertices once; the person's vertices then give the positions), lifted by the
thickness of the hair. Long hair falls straight where the head curves away below it. Transparency, not geometry, makes the
ends ragged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from eolgul.synth.mesh import I32, SKIN, Reals, load_base, quad_triangles, subdivision
from eolgul.synth.paint import AXIS_Z, CENTRE_Y, noise
from eolgul.synth.person import Person, generator

COLUMNS, ROWS = 144, 40
_ELEVATIONS = np.arange(90, -54.1, -4, dtype=np.float32)
_ANGLES = (np.arange(COLUMNS, dtype=np.float32) / COLUMNS * 360 - 180).astype(np.float32)
# Angles (degrees from the front) at which styles are given, and the natural elevation of the hair line there:
# forehead, temples, side burns, above and behind the ear, nape.
_AT = np.array([0, 25, 45, 60, 74, 90, 105, 125, 150, 180], np.float32)
_NATURAL = np.array([39, 38, 33, 22, -6, 6, 4, -20, -32, -36], np.float32)
STRANDS = 768
_LEAD = 24.0  # degrees next to the falling columns over which their neighbours adapt
# Base mesh vertices of the right temple, in front of the ear.
_BESIDE_EARS = (5735, 5738)


@dataclass(frozen=True)
class Style:
    """How a hair style is cut and combed; lengths in decimetres.

    Attributes:
        ends: the elevation at which hair ends, at the angles `_AT`.
        top, side, tip: thickness on top, at the sides, at the ends.
        rise: share of the length over which the hair thins out.
        fall_from: columns beyond this angle fall straight down.
        fall_to: heights of the base mesh where falling hair ends, for the shortest and the longest version.
        wave: sideways swing of falling hair.
        part: strength of the parting, 0 to 1.
        fade: share of the length over which single strands end.
        streak: how often brightness changes along a strand.
        lumps: depth of the uneven surface.
    """

    ends: tuple[float, ...]
    top: float
    side: float
    tip: float
    rise: float = 0.45
    fall_from: float = 180.0
    fall_to: tuple[float, float] = (0.0, 0.0)
    wave: float = 0.012
    part: float = 0.0
    fade: float = 0.10
    streak: int = 3
    lumps: float = 0.10


STYLES = {
    "crop": Style(tuple(_NATURAL), 0.15, 0.05, 0.008, 0.7, fade=0.2, streak=9),
    "buzz": Style(tuple(_NATURAL), 0.035, 0.02, 0.006, 0.8, fade=0.2, streak=24, lumps=0.03),
    "swept": Style((40, 38, 32, 21, -6, 6, 4, -20, -32, -36), 0.28, 0.07, 0.03, 0.6, fade=0.14),
    "tousled": Style((27, 25, 22, 17, -6, 4, 2, -22, -32, -36), 0.26, 0.10, 0.03, 0.5, fade=0.3, streak=6, lumps=0.22),
    "fringe": Style((20, 20, 19, 14, -8, 4, 2, -22, -32, -36), 0.24, 0.10, 0.03, fade=0.16),
    "parted": Style((30, 26, 21, 15, -8, 3, 1, -22, -32, -36), 0.24, 0.10, 0.03, part=1.0, fade=0.14),
    "pixie": Style((23, 21, 15, 6, -10, -4, -6, -24, -32, -36), 0.24, 0.11, 0.02, part=0.7, fade=0.22, lumps=0.12),
    "coils": Style(tuple(_NATURAL), 0.24, 0.16, 0.03, 0.35, fade=0.12, streak=40, lumps=0.12),
    "long": Style((40, 39, 33, 16, 4, 2, 0, 0, 0, 0), 0.18, 0.12, 0.012, 0.5, 58, (5.9, 4.9)),
    "long_parted": Style((38, 32, 25, 13, 4, 2, 0, 0, 0, 0), 0.18, 0.12, 0.012, 0.5, 56, (5.9, 4.9), part=1.0),
    "long_fringe": Style((19, 18, 17, 12, 4, 2, 0, 0, 0, 0), 0.22, 0.13, 0.03, 0.4, 60, (5.9, 4.9), fade=0.14),
    "wavy": Style((36, 31, 24, 13, 4, 2, 0, 0, 0, 0), 0.24, 0.17, 0.02, 0.5, 56, (6.0, 5.0), 0.06, 0.8, streak=6, lumps=0.16),
    "bob": Style((20, 19, 17, 12, 4, 2, 0, 0, 0, 0), 0.22, 0.16, 0.03, 0.4, 58, (6.35, 6.0), fade=0.14),
    "tied": Style((39, 38, 33, 22, -2, 6, 2, -20, -30, -34), 0.08, 0.04, 0.006, 0.6, fade=0.16),
}  # fmt: skip


@dataclass(frozen=True)
class Shell:
    """A grid surface in head coordinates.

    Attributes:
        points, tangents: (ROWS × COLUMNS, 3), decimetres.
        strand: (ROWS × COLUMNS, 3): strand coordinate in 0…STRANDS, position from crown (0) to end (1), 1 on a brim.
        triangles: (T, 3).
    """

    points: Reals
    tangents: Reals
    strand: Reals
    triangles: I32


@cache
def _skull() -> tuple[I32, Reals]:
    """Three fine vertices and weights per elevation and angle: where the ray from the skull's centre leaves the skull."""
    base, fine = load_base(), subdivision()
    vertices = fine.apply(base.vertices)
    ears = fine.apply(base.masks)[:, 2] > 0.25
    triangles = quad_triangles(fine.fine)
    kept = np.repeat(np.repeat(base.material == SKIN, 4), 2) & ~ears[triangles].any(1)
    triangles = triangles[kept]
    scene = EmbreeScene()
    TriangleMesh(scene, vertices, triangles)
    e, a = np.meshgrid(np.radians(_ELEVATIONS), np.radians(_ANGLES), indexing="ij")
    outward = np.stack([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)], -1).reshape(-1, 3).astype(np.float32)
    centre = np.array([0, CENTRE_Y, AXIS_Z], np.float32)
    hit = scene.run((centre + 5 * outward).astype(np.float32), -outward, query="INTERSECT", output=True)
    # Where the ear was cut away the ray meets the inside of the head, or nothing: take the neighbours' hits.
    good = ((hit["primID"] >= 0) & (hit["tfar"] < 4.6)).reshape(e.shape)
    source = np.arange(e.size).reshape(e.shape)
    for row in range(len(e)):
        at = np.flatnonzero(good[row])
        nearest = at[np.abs(np.arange(COLUMNS)[:, None] - at).argmin(1)]
        source[row] = source[row][nearest]
    flat = source.ravel()
    u, v = hit["u"][flat], hit["v"][flat]
    return triangles[hit["primID"][flat]], np.stack([1 - u - v, u, v], 1).astype(np.float32)


@cache
def _base_height() -> float:
    return float(skull_points(subdivision().apply(load_base().vertices))[0][..., 1].mean())


def skull_points(fine_vertices: Reals) -> tuple[Reals, Reals]:
    """Points of a person's skull in the grid's directions, and the outward directions there.

    Args:
        fine_vertices: (F, 3) the person's subdivided mesh.

    Returns:
        Two arrays (elevations, angles, 3).
    """
    corners, weights = _skull()
    points = (fine_vertices[corners] * weights[..., None]).sum(1).reshape(len(_ELEVATIONS), COLUMNS, 3)
    # The hits taken from neighbours leave a step at the ears: smooth around the head below the tops of the ears.
    low = _ELEVATIONS < 8
    smooth = points[low]
    for _ in range(4):
        smooth = (np.roll(smooth, 1, 1) + 2 * smooth + np.roll(smooth, -1, 1)) / 4
    points[low] = smooth
    centre = points[_ELEVATIONS > -10].mean((0, 1))
    centre[1] = points[_ELEVATIONS == -2][..., 1].mean()
    out = points - centre
    return points, (out / np.linalg.norm(out, axis=-1, keepdims=True)).astype(np.float32)


def _interpolate(grid: Reals, elevation: Reals) -> Reals:
    """Interpolate an (elevations, angles, 3) grid at elevations (rows, COLUMNS) of each angle."""
    at = (90 - elevation) / 4
    low = np.clip(np.floor(at).astype(int), 0, len(_ELEVATIONS) - 2)
    f = (at - low)[..., None]
    column = np.broadcast_to(np.arange(COLUMNS), low.shape)
    values: Reals = grid[low, column] * (1 - f) + grid[low + 1, column] * f
    return values


def hairline() -> tuple[Reals, Reals]:
    """Angles (degrees from the front) and elevations of the natural hair line."""
    return _AT, _NATURAL


def hair_colour(person: Person) -> Reals:
    """(3,) linear reflectance: black to brown, then fair or red; the renderer adds grey strands."""
    look = person.look
    black, brown = np.array([0.009, 0.0075, 0.007]), np.array([0.13, 0.066, 0.034])
    colour = black + look["hair_brown"] ** 1.6 * (brown - black)
    colour = colour + look["hair_fair"] * (np.array([0.36, 0.235, 0.115]) - colour)
    red = 0.7 * look["hair_red"] * look["hair_brown"]
    tinted: Reals = (colour * np.array([1 + 0.5 * red, 1 - 0.15 * red, 1 - 0.3 * red])).astype(np.float32)
    return tinted


def strand_noise(person: Person) -> Reals:
    """(64, STRANDS) brightness of the strands from crown to end, around 1."""
    rng = generator(person.seed, person.index, 2)
    shape = (64, STRANDS)
    streak = STYLES[person.hair_style].streak
    fine = noise(rng, streak + 1, STRANDS, shape) * 0.26 + noise(rng, streak, STRANDS // 4, shape) * 0.26
    strands: Reals = np.clip(1 + fine + 0.16 * noise(rng, streak, 40, shape), 0.25, 2.2).astype(np.float32)
    return strands


def hair_shells(person: Person, fine_vertices: Reals, cap: Reals | None) -> list[Shell]:
    """The person's hair: a closed inner shell and a loose outer one that consists of clumps of strands.

    Args:
        person: whose hair.
        fine_vertices: (F, 3) the person's subdivided mesh.
        cap: (COLUMNS,) elevation of the cap's edge, hair above which is pressed flat; None without a cap.
    """
    style = STYLES[person.hair_style]
    rng = generator(person.seed, person.index, 3)
    points, out = skull_points(fine_vertices)
    ends = _ends(person, style, rng)
    # Rows of neighbouring columns must lie side by side, or strands zigzag between two directions: columns next to the
    # falling ones reach the hair line where these begin to fall, and their last rows coincide there.
    beside = _smoothstep((np.abs(_ANGLES) - style.fall_from) / _LEAD + 1)
    share = 1 - 0.5 * beside
    s = np.linspace(0, 1, ROWS, dtype=np.float32)[:, None]
    t = np.clip(s / share, 0, 1)
    along = t + beside * (s - t)
    elevation = 90 + (ends - 90) * t
    root, direction = _interpolate(points, elevation), _interpolate(out, elevation)

    lumps = 1 + style.lumps * noise(rng, 5, 15, (ROWS, COLUMNS)) * np.clip(4 * s, 0, 1)
    lumps = lumps + 0.6 * style.lumps * noise(rng, 8, 48, (ROWS, COLUMNS)) * np.clip(3 * s, 0, 1)
    upper = np.clip((elevation - 15) / 40, 0, 1)
    thick = (style.side + (style.top - style.side) * upper) * person.look["hair_volume"] * lumps
    tip = style.tip + (thick - style.tip) * _smoothstep((1 - t) / style.rise)
    thick = tip + beside * (thick - tip)
    strand = _strand_coordinates(person, style, s)
    shells: list[Shell] = []
    for layer, lift in ((1.0, 0.86), (2.0, 1.0)):
        over = np.maximum(thick * lift, 0.008 + 0.006 * layer)
        if cap is not None:
            over = np.where(elevation > cap - 3, np.minimum(over, 0.02 + 0.01 * layer), over)
        hair = _let_fall(person, style, root + direction * over[..., None], layer, fine_vertices, rng)
        if shells:
            hair = _separate(hair, shells[0].points.reshape(ROWS, -1, 3)[:, :COLUMNS])
        facts = np.stack([strand, along, np.full_like(strand, layer)], -1)
        shells.append(_shell(hair, _directions(hair), facts))
    return shells


def _directions(hair: Reals) -> Reals:
    """Unit directions of the strands of a (ROWS, COLUMNS, 3) grid; coinciding rows take the direction of the row above."""
    tangents: Reals = np.gradient(hair, axis=0)
    length = np.linalg.norm(tangents, axis=-1, keepdims=True)
    for row in range(1, ROWS):
        still = length[row, :, 0] < 1e-4
        tangents[row, still], length[row, still] = tangents[row - 1, still], length[row - 1, still]
    directions: Reals = tangents / np.maximum(length, 1e-6)
    return directions


def _ends(person: Person, style: Style, rng: np.random.Generator) -> Reals:
    """(COLUMNS,) elevation at which hair ends or begins to fall."""
    angle, side = np.abs(_ANGLES), person.look["hair_side"]
    ends = np.interp(angle, _AT, np.array(style.ends, np.float32))
    ends = ends + person.look["hair_line"] * np.clip(1 - angle / 70, 0, 1)
    if style.part:
        # A parting lifts the hair from one side of the forehead and lets it fall over the other.
        lift = np.exp(-(((_ANGLES * side - 18) / 22) ** 2))
        ends = ends + style.part * lift * (np.interp(angle, _AT, _NATURAL) + person.look["hair_line"] - ends)
    ragged = rng.normal(0, 1.2 + 6 * (style.fade - 0.1), COLUMNS // 6 + 1)
    ends = ends + np.interp(np.arange(COLUMNS), np.arange(0, COLUMNS + 1, 6), ragged)
    return np.where(angle > style.fall_from, np.maximum(ends, 2), ends)


def _strand_coordinates(person: Person, style: Style, s: Reals) -> Reals:
    """(ROWS, COLUMNS) strand coordinates; strands turn a little on their way from the crown."""
    swirl = person.look["hair_swirl"] + 0.35 * person.look["hair_side"] * style.part
    return (_ANGLES / 360 + 0.5 + swirl * 0.12 * s) * STRANDS


def _let_fall(
    person: Person, style: Style, hair: Reals, layer: float, fine_vertices: Reals, rng: np.random.Generator
) -> Reals:
    """Let the falling columns of the grid `hair` (ROWS, COLUMNS, 3) hang down from their middle row."""
    angle = np.abs(_ANGLES)
    falls = angle > style.fall_from
    wave = 0.5 * noise(rng, 5, 40, (ROWS, COLUMNS))
    # Clumps end at different heights: those of the outer layer earlier, and next to the face earlier than behind.
    ragged = 0.09 * noise(rng, 2, 30, (2, COLUMNS))[0] + (0.10 if layer > 1 else 0.0)
    if not falls.any():
        return hair.astype(np.float32)
    shortest, longest = style.fall_to
    lowest = shortest + (longest - shortest) * person.look["hair_length"]
    # Lengths are given for the base mesh; a person's head may be decimetres lower.
    lowest += float(skull_points(fine_vertices)[0][..., 1].mean() - _base_height())
    bottom = lowest + ragged + 0.25 * np.clip((85 - angle) / 30, 0, 1)
    s = np.linspace(0, 1, ROWS, dtype=np.float32)[:, None]
    drop = np.clip((s - 0.5) / 0.5, 0, 1) * falls
    start = hair[ROWS // 2 - 1]
    fallen = start + 0 * hair
    fallen[..., 1] = start[:, 1] + drop * (bottom - start[:, 1])
    # Falling hair narrows below the jaw and lies on the neck behind.
    narrow = 1 - drop**2 * np.where(angle > 120, 0.25, 0.12) + 2 * style.wave * wave * drop
    turns = 2.2 * np.pi * drop + 1.5 * wave + 0.02 * _ANGLES
    narrow = narrow + (style.wave - 0.012) * np.sin(2.6 * turns) * np.clip(3 * drop, 0, 1)
    fallen[..., 0] *= narrow
    fallen[..., 2] = AXIS_Z + (fallen[..., 2] - AXIS_Z) * narrow
    hair = np.where((drop > 0)[..., None], fallen, hair)
    return _move_over_ears(hair, falls, layer, fine_vertices)


def _separate(outer: Reals, inner: Reals) -> Reals:
    """Push the outer shell outside the inner one: where they touch, a ray through a gap of one would miss the other."""
    axis = np.array([0, AXIS_Z], np.float32)
    away, least = outer[..., ::2] - axis, np.linalg.norm(inner[..., ::2] - axis, axis=-1) + 0.012
    reach = np.maximum(np.linalg.norm(away, axis=-1), 1e-6)
    outer[..., ::2] = axis + away * np.where(reach > 0.3, np.maximum(least / reach, 1), 1)[..., None]
    return outer


def beside_ears(vertices: Reals) -> float:
    """Half the head's width in front of the ears; `vertices` (V, 3) are those of the base mesh."""
    return float(np.abs(vertices[[load_base().index(number) for number in _BESIDE_EARS], 0]).mean())


def press_ears(person: Person, vertices: Reals) -> None:
    """Press the ears of a person with falling hair to the head, in place; `vertices` (V, 3) are those of the base mesh."""
    if STYLES[person.hair_style].fall_from >= 180:
        return
    x, ear = vertices[:, 0], np.clip(2 * load_base().masks[:, 2], 0, 1)
    out = np.maximum(np.abs(x) - beside_ears(vertices) - 0.03, 0)
    vertices[:, 0] -= np.sign(x) * ear * 0.8 * out


@cache
def _ear_points() -> I32:
    return np.flatnonzero(subdivision().apply(load_base().masks)[:, 2] > 0.6).astype(np.int32)


def _move_over_ears(hair: Reals, falls: NDArray[np.bool_], layer: float, fine_vertices: Reals) -> Reals:
    """Move falling hair outside the ears."""
    for side in (-1, 1):
        ear = fine_vertices[_ear_points()]
        ear = ear[np.sign(ear[:, 0]) == side]
        middle, reach = (ear.max(0) + ear.min(0)) / 2, (ear.max(0) - ear.min(0)) / 2
        # Nearness to the ear, seen from the side: 1 over the ear, 0 a little outside.
        off = np.abs(hair[..., 1:] - middle[1:]) / reach[1:]
        near = _smoothstep(2.6 - 1.3 * off.max(-1)) * falls
        missing = np.abs(ear[:, 0]).max() + 0.02 * layer - side * hair[..., 0]
        hair[..., 0] += side * near * np.clip(missing, 0, 0.2) * (side * hair[..., 0] > 0.2)
    return hair.astype(np.float32)


def _smoothstep(x: Reals) -> Reals:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def cap_edge(person: Person) -> Reals:
    """(COLUMNS,) elevation of a cap's lower edge in degrees: above the brows in front, low at the back."""
    low = 31 + 14 * float(np.clip(person.look["hair_swirl"], -0.35, 0.35))
    return np.interp(np.abs(_ANGLES), [0, 60, 90, 180], [low, low - 6, 14, 0]).astype(np.float32)


def cap_shells(person: Person, fine_vertices: Reals) -> list[Shell]:
    """The shells of a baseball cap: crown and brim."""
    points, out = skull_points(fine_vertices)
    edge = cap_edge(person)
    t = np.linspace(0, 1, ROWS, dtype=np.float32)[:, None]
    elevation = 90 + (edge - 90) * t
    root, direction = _interpolate(points, elevation), _interpolate(out, elevation)
    lift = 0.09 + 0.14 * np.clip((elevation - 25) / 50, 0, 1)
    crown = (root + direction * lift[..., None]).astype(np.float32)
    strand = np.stack(
        [np.broadcast_to(_ANGLES, elevation.shape), np.broadcast_to(t, elevation.shape), 0 * elevation], -1
    )
    shells = [_shell(crown, np.gradient(crown, axis=0), strand)]

    # The brim starts at the front edge of the crown and goes forward and a little down, arched from left to right.
    front = np.flatnonzero(np.abs(_ANGLES) <= 58)
    rim = crown[-1, front]
    across = np.abs(_ANGLES[front]) / 58
    reach = np.linspace(0, 1, 9, dtype=np.float32)[:, None]
    length = 0.72 * np.sqrt(np.clip(1 - across**2.4, 0, 1))
    brim = np.repeat(rim[None], 9, 0)
    brim[..., 2] += reach * length
    brim[..., 1] -= reach * (0.08 * length + 0.02) + 0.10 * reach * across**2
    facts = np.stack([np.broadcast_to(_ANGLES[front], (9, len(front))), np.broadcast_to(reach, (9, len(front))),
                      np.ones((9, len(front)))], -1)  # fmt: skip
    thick = brim + np.array([0, -0.025, 0], np.float32)
    closed = np.concatenate([brim, thick[::-1]])
    shells.append(_shell(closed, np.gradient(closed, axis=0), np.concatenate([facts, facts[::-1]]), wraps=False))
    return shells


def _shell(grid: Reals, tangents: Reals, strand: Reals, *, wraps: bool = True) -> Shell:
    """Make a shell of a (rows, columns, 3) grid; `wraps` joins its last column to its first."""
    rows, columns = grid.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    if wraps:
        # The seam gets a column of its own, whose strand coordinate continues where the first column starts.
        grid, tangents = (np.concatenate([x, x[:, :1]], 1) for x in (grid, tangents))
        last = strand[:, :1].copy()
        last[..., 0] += STRANDS if strand[..., 0].max() > 200 else 360
        strand = np.concatenate([strand, last], 1)
        index = np.arange(rows * (columns + 1)).reshape(rows, columns + 1)
    quads = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], -1).reshape(-1, 4)
    return Shell(
        grid.reshape(-1, 3).astype(np.float32),
        tangents.reshape(-1, 3).astype(np.float32),
        strand.reshape(-1, 3).astype(np.float32),
        quad_triangles(quads.astype(np.int32)),
    )
