"""K-FACE (AI Hub): its folder tree, its conditions, a selection language over them, and its annotation files.

Layout: `{High,Middle,Low}_Resolution/<ID>/<S00x>/<Ly>/<E0z>/<Cn>.jpg`. An annotation `<Cn>.txt` beside an image holds
seven points (nose, right eye, left eye, right and left mouth corner, right and left ear) and five to seven boxes
(face, eyes, nose, mouth, ears; hidden ones left out), numbers separated by space, tab, comma or semicolon.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError

SIZES = {"High": (864, 576), "Middle": (346, 230), "Low": (173, 115)}  # width, height in pixels
RESOLUTIONS = tuple(SIZES)
ACCESSORIES = tuple(f"S{n:03}" for n in range(1, 7))
LIGHTS = tuple(f"L{n}" for n in range(1, 31))
EXPRESSIONS = tuple(f"E{n:02}" for n in range(1, 4))
CAMERAS = tuple(f"C{n}" for n in range(1, 21))
_ALL = {
    "resolutions": RESOLUTIONS,
    "accessories": ACCESSORIES,
    "lights": LIGHTS,
    "expressions": EXPRESSIONS,
    "cameras": CAMERAS,
}
_PATH = re.compile(
    r"(?:^|/)(High|Middle|Low)_Resolution/([^/]+)/(S\d{3})/(L\d{1,2})/E0?(\d)/(C\d{1,2})\.(?:jpg|jpeg|png)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Condition:
    """How one K-FACE image was taken."""

    resolution: str
    accessory: str
    light: str
    expression: str
    camera: str

    def path(self, identity: str) -> str:
        """The image's path below the K-FACE root, with `/` between the parts."""
        return (
            f"{self.resolution}_Resolution/{identity}/{self.accessory}/{self.light}/{self.expression}/{self.camera}.jpg"
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """Which conditions to take, as data. Each field holds K-FACE's own names, in K-FACE's order."""

    resolutions: tuple[str, ...] = ("Middle",)
    accessories: tuple[str, ...] = ACCESSORIES
    lights: tuple[str, ...] = LIGHTS
    expressions: tuple[str, ...] = EXPRESSIONS
    cameras: tuple[str, ...] = CAMERAS

    @classmethod
    def parse(cls, text: str) -> Selection:
        """Read a preset's name or `field=values …`, values being names or ranges: `lights=L1-L3 cameras=C5-C10`.

        A field left out means all of it (resolutions: Middle). Raises InputError for an unknown field or name.
        """
        if text in PRESETS:
            return PRESETS[text]
        chosen: dict[str, tuple[str, ...]] = {}
        for clause in text.split():
            field, equals, values = clause.partition("=")
            if not equals or field not in _ALL:
                raise InputError(
                    f"selection {clause!r}: expected one of {', '.join(PRESETS)} or field=values with field in {', '.join(_ALL)}"
                )
            if field in chosen:
                raise InputError(f"selection {clause!r}: {field} is given twice; separate its values by commas")
            chosen[field] = _names(values, field)
        return cls(**chosen)

    def conditions(self) -> Iterator[Condition]:
        """Every combination, cameras changing fastest."""
        lists = (self.resolutions, self.accessories, self.lights, self.expressions, self.cameras)
        return (Condition(*names) for names in itertools.product(*lists))

    def __contains__(self, condition: object) -> bool:
        if not isinstance(condition, Condition):
            return False
        return all(
            getattr(condition, one.name) in getattr(self, many.name)
            for one, many in zip(fields(Condition), fields(Selection), strict=True)
        )

    def __len__(self) -> int:
        total = 1
        for field in fields(self):
            total *= len(getattr(self, field.name))
        return total


def _names(values: str, field: str) -> tuple[str, ...]:
    known = _ALL[field]
    taken: list[str] = []
    for value in values.split(","):
        first, dash, last = value.partition("-")
        if first not in known or (dash and last not in known):
            raise InputError(f"selection {field}={value!r}: expected names from {known[0]} to {known[-1]}")
        begin, end = known.index(first), known.index(last) if dash else known.index(first)
        if end < begin:
            raise InputError(f"selection {field}={value!r}: the range goes backwards")
        taken.extend(known[begin : end + 1])
    return tuple(name for name in known if name in taken)


PRESETS = {
    # The original project's selection: 3 lights x 3 accessories x 3 expressions x 6 cameras = 162 images a person.
    "original": Selection(
        accessories=("S001", "S002", "S005"), lights=("L1", "L2", "L3"), cameras=tuple(f"C{n}" for n in range(5, 11))
    ),
    # The demo's: near-frontal cameras, frontal and side lights, every expression, with and without glasses.
    "demo": Selection(
        accessories=("S001", "S002"), lights=("L1", "L3", "L19", "L25"), cameras=tuple(f"C{n}" for n in range(5, 11))
    ),
    "all": Selection(),
}


def parse_path(path: str) -> tuple[str, Condition] | None:
    """Identity and condition of a path in K-FACE's tree (`/` between parts), or None when it is no such path."""
    match = _PATH.search(path)
    if not match:
        return None
    resolution, identity, accessory, light, expression, camera = match.groups()
    condition = Condition(resolution.capitalize(), accessory.upper(), light.upper(), f"E0{expression}", camera.upper())
    known = all(getattr(condition, one.name) in _ALL[many] for one, many in zip(fields(Condition), _ALL, strict=True))
    return (identity, condition) if known else None


@dataclass(frozen=True, slots=True)
class Annotation:
    """What `<Cn>.txt` says of an image, in pixels from its top left corner.

    `points` is 7x2 float32: nose, right eye, left eye, right mouth corner, left mouth corner, right ear, left ear
    (right and left are the person's). `boxes` is Kx4 float32, x y width height, the face first.
    """

    points: NDArray[np.float32]
    boxes: NDArray[np.float32]

    @property
    def landmarks(self) -> NDArray[np.float32]:
        """The five points (5x2) in the alignment template's order: eyes, nose, mouth corners, left as seen first."""
        return self.points[[1, 2, 0, 3, 4]]


def read_annotation(path: Path) -> Annotation:
    """Read an annotation file. InputError names the line that does not hold the expected numbers."""
    rows: list[list[float]] = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        words = [word for word in re.split(r"[\s,;]+", line) if word]
        if not words:
            continue
        expected = "x y" if len(rows) < 7 else "x y w h"
        try:
            row = [float(word) for word in words]
        except ValueError:
            row = []
        if len(row) != len(expected.split()) or not all(abs(value) < 1e6 for value in row):  # NaN is not
            raise InputError(f"{path} line {number}: {line[:60]!r}, expected numbers '{expected}'")
        rows.append(row)
    if len(rows) < 8:
        raise InputError(f"{path}: {len(rows)} lines, expected 7 lines 'x y' and then 'x y w h' lines")
    return Annotation(np.array(rows[:7], np.float32), np.array(rows[7:], np.float32))


def write_annotation(path: Path, points: NDArray[np.floating], boxes: Sequence[Sequence[float]]) -> None:
    """Write `points` (7x2) and `boxes` (Kx4) in K-FACE's order, one decimal, separated by a space."""
    rows = [*np.asarray(points).tolist(), *(list(box) for box in boxes)]
    path.write_text("".join(" ".join(f"{value:.1f}" for value in row) + "\n" for row in rows), encoding="ascii")
