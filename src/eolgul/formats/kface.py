"""K-FACE (AI Hub): its folder tree, its conditions, a selection language for them, and its annotation files.

Layout: `{High,Middle,Low}_Resolution/<ID>/<S00x>/<Ly>/<E0z>/<Cn>.jpg`. An annotation `<Cn>.txt` beside an image holds
seven points (nose, right eye, left eye, right and left mouth corner, right and left ear) and five to seven boxes
(face, eyes, nose, mouth, ears; hidden ones omitted), numbers separated by space, tab, comma or semicolon. Which boxes
are omitted for a camera is the convention of K-FACE's own annotation tool (k-face/k-face_2019, tools/boundingbox).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError
from eolgul.formats.pair_lists import Pair, consecutive_parts, read_text

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
BOXES = ("face", "right eye", "left eye", "nose", "mouth", "right ear", "left ear")
_SEES_LEFT = (*CAMERAS[:6], "C14", "C15", "C19")  # the cameras on the person's left
_SUFFIX = "(?:jpe?g|jfif|png|webp|bmp|tiff?|gif|heic|heif|avif|jp2)"
_PATH = re.compile(
    r"(?:^|/)(High|Middle|Low)_Resolution/([^/]+)/(S\d{3})/(L\d{1,2})/E0?(\d)/(C\d{1,2})"
    rf"\.{_SUFFIX}$",
    re.IGNORECASE,
)
_PLACE = re.compile(rf"(?:(.*)/)?(S\d{{3}})/(L\d{{1,2}})/E0?(\d)/(C\d{{1,2}})\.{_SUFFIX}", re.IGNORECASE | re.DOTALL)
_RESOLUTION = re.compile(r"(?:^|[^a-z])(high|middle|low)[ _-]?resolution(?![a-z])", re.IGNORECASE)


class Place(NamedTuple):
    """Where an image lies: the path of its person's folder ("" for the top), and its condition without the resolution."""

    above: str
    names: tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition of one K-FACE image."""

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
    """A set of conditions. Each field holds K-FACE's own names, in K-FACE's order."""

    resolutions: tuple[str, ...] = ("Middle",)
    accessories: tuple[str, ...] = ACCESSORIES
    lights: tuple[str, ...] = LIGHTS
    expressions: tuple[str, ...] = EXPRESSIONS
    cameras: tuple[str, ...] = CAMERAS

    @classmethod
    def parse(cls, text: str) -> Selection:
        """Read a preset's name or `field=values …`, values being names or ranges: `lights=L1-L3 cameras=C5-C10`.

        An omitted field means all of its values (resolutions: Middle).

        Raises:
            InputError: A field or name is unknown.
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
        """Every combination; cameras change fastest."""
        lists = (self.resolutions, self.accessories, self.lights, self.expressions, self.cameras)
        return (Condition(*names) for names in itertools.product(*lists))

    def __contains__(self, condition: object) -> bool:
        if not isinstance(condition, Condition):
            return False
        return all(
            getattr(condition, field.name) in getattr(self, chosen.name)
            for field, chosen in zip(fields(Condition), fields(Selection), strict=True)
        )

    def may_have(self, names: tuple[str, str, str, str]) -> bool:
        """Whether an image of this accessory, light, expression and camera is among the selection at any resolution."""
        accessory, light, expression, camera = names
        return (
            accessory in self.accessories
            and light in self.lights
            and expression in self.expressions
            and camera in self.cameras
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
    # The original project's selection: 3 lights x 3 accessories x 3 expressions x 6 cameras = 162 images per person.
    "original": Selection(
        accessories=("S001", "S002", "S005"), lights=("L1", "L2", "L3"), cameras=tuple(f"C{n}" for n in range(5, 11))
    ),
    # For the demo: near-frontal cameras, frontal and side lights, every expression, with and without glasses.
    "demo": Selection(
        accessories=("S001", "S002"), lights=("L1", "L3", "L19", "L25"), cameras=tuple(f"C{n}" for n in range(5, 11))
    ),
    "all": Selection(),
    # The published protocol of mixface: the training sets T1…T4, and the images of its tests (without L7, which is dark).
    "T1": Selection(accessories=("S001",), lights=("L1",), expressions=("E01",), cameras=CAMERAS[3:10]),
    "T2": Selection(
        accessories=ACCESSORIES[:2],
        lights=("L1", "L2", "L8", "L12", "L16", "L19", "L22", "L25", "L28"),
        expressions=("E01",),
        cameras=CAMERAS[3:10],
    ),
    "T3": Selection(
        accessories=ACCESSORIES[:4],
        lights=tuple(f"L{n}" for n in (1, 2, 3, 8, 9, 12, 13, 16, 17, 19, 20, 22, 23, 25, 26, 28, 29)),
        expressions=EXPRESSIONS[:2],
        cameras=CAMERAS[:13],
    ),
    "T4": Selection(lights=tuple(name for name in LIGHTS if name != "L7")),
    "protocol-test": Selection(lights=tuple(name for name in LIGHTS if name != "L7")),
}


def parse_path(path: str) -> tuple[str, Condition] | None:
    """Identity and condition of a path in K-FACE's tree (`/` between parts); None for any other path."""
    match = _PATH.search(path)
    if not match:
        return None
    resolution, identity, accessory, light, expression, camera = match.groups()
    condition = Condition(resolution.capitalize(), accessory.upper(), light.upper(), f"E0{expression}", camera.upper())
    known = all(
        getattr(condition, field.name) in _ALL[names] for field, names in zip(fields(Condition), _ALL, strict=True)
    )
    return (identity, condition) if known else None


def parse_place(path: str) -> Place | None:
    """The place of a path that ends as K-FACE's images do, `S00x/Ly/E0z/Cn.jpg`; None for any other path."""
    if path.rfind("/C") < 0 and path.rfind("/c") < 0:  # most names of other images, at once
        return None
    match = _PLACE.fullmatch(path)
    if not match:
        return None
    above, accessory, light, expression, camera = match.groups()
    names = (accessory.upper(), light.upper(), f"E0{expression}", camera.upper())
    known = all(name in some for name, some in zip(names, (ACCESSORIES, LIGHTS, EXPRESSIONS, CAMERAS), strict=True))
    return Place(above or "", names) if known else None


def resolution_of(name: str) -> str | None:
    """The resolution that a folder is named after, such as `[원천]Middle_Resolution`; None for any other name."""
    match = _RESOLUTION.search(name)
    return match[1].capitalize() if match else None


def image_id(identity: str, condition: Condition) -> str:
    """An image's id in a FaceDataset: `<identity>/<resolution>_<accessory>_<light>_<expression>_<camera>`."""
    return f"{identity}/{'_'.join(getattr(condition, field.name) for field in fields(Condition))}"


def read_kface_pairs(path: Path, resolution: str = "Middle") -> list[Pair]:
    """Read a published pair list (Q1…Q4) for images of one resolution: `<id>/S00x/Ly/E0z/Cn.jpg <the same> 0|1` per line.

    The lists have no folds and hold all genuine pairs first, so each class is cut into ten consecutive parts: every fold
    has both. Lines `<id> Cn <id> Cn 0|1` of the analysis list are read too; their other conditions are S001, L1, E01.

    Raises:
        InputError: A line does not fit; the message names it.
    """
    if resolution not in RESOLUTIONS:
        raise InputError(f"resolution {resolution!r}: expected one of {', '.join(RESOLUTIONS)}")
    listed: list[tuple[str, str, bool]] = []
    for number, line in _lines(path):
        words = line.split()
        if len(words) == 5:
            words = [f"{words[0]}/S001/L1/E01/{words[1]}.jpg", f"{words[2]}/S001/L1/E01/{words[3]}.jpg", words[4]]
        sides = [parse_path(f"{resolution}_Resolution/{word}") for word in words[:2]]
        if len(words) != 3 or None in sides or words[2] not in ("0", "1"):
            expected = "'<id>/S00x/Ly/E0z/Cn.jpg <the same> 0|1' or '<id> Cn <id> Cn 0|1'"
            raise InputError(f"{path} line {number}: {line[:80]!r}, expected {expected}")
        left, right = (image_id(*side) for side in sides if side is not None)
        listed.append((left, right, words[2] == "1"))
    if not listed:
        raise InputError(f"{path}: empty, expected one pair per line")
    folds = consecutive_parts(path, [same for *_, same in listed])
    return [Pair(*pair, fold) for pair, fold in zip(listed, folds, strict=True)]


def is_kface_list(path: Path) -> bool:
    """Whether the first line of a list is one of K-FACE's: two images by their conditions, or two people by cameras."""
    words = next((line.split() for _, line in _lines(path)), [])
    if len(words) == 5:
        return words[1] in CAMERAS and words[3] in CAMERAS
    return len(words) == 3 and parse_path(f"Middle_Resolution/{words[0]}") is not None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The non-empty lines of a text file, stripped, with their numbers."""
    lines = enumerate(read_text(path).split("\n"), 1)
    return ((number, line.strip()) for number, line in lines if line.strip())


def visible_boxes(camera: str) -> tuple[str, ...]:
    """The names of the boxes in the annotation of a camera's image, in the file's order; right and left are the person's.

    All seven for C7 and C16; from the side the far ear is omitted, and for C1, C2, C12 and C13 the far eye too.

    Raises:
        InputError: There is no such camera.
    """
    if camera not in CAMERAS:
        raise InputError(f"camera {camera!r}: expected one of {CAMERAS[0]} to {CAMERAS[-1]}")
    hidden: tuple[str, ...] = ()
    if camera in _SEES_LEFT:
        hidden = ("right eye", "right ear") if camera in ("C1", "C2") else ("right ear",)
    elif camera not in ("C7", "C16"):
        hidden = ("left eye", "left ear") if camera in ("C12", "C13") else ("left ear",)
    return tuple(name for name in BOXES if name not in hidden)


@dataclass(frozen=True, slots=True)
class Annotation:
    """The content of `<Cn>.txt`, in pixels from the top left corner of the image.

    `points` is 7x2 float32: nose, right eye, left eye, right mouth corner, left mouth corner, right ear, left ear
    (right and left are the person's). `boxes` is Kx4 float32 (K is 5 to 7), x y width height, the face first.
    """

    points: NDArray[np.float32]
    boxes: NDArray[np.float32]

    @property
    def landmarks(self) -> NDArray[np.float32]:
        """The five points (5x2) in the alignment template's order: eyes, nose, mouth corners, left as seen first."""
        return self.points[[1, 2, 0, 3, 4]]

    def named_boxes(self, camera: str) -> dict[str, NDArray[np.float32]]:
        """The boxes (each 4 float32) by name; InputError if their number does not fit the camera."""
        names = visible_boxes(camera)
        if len(names) != len(self.boxes):
            raise InputError(f"{len(self.boxes)} boxes of camera {camera}, expected {len(names)}: {', '.join(names)}")
        return dict(zip(names, self.boxes, strict=True))


def read_annotation(path: Path) -> Annotation:
    """Read an annotation file.

    Raises:
        InputError: A line does not hold the expected numbers, or lines are missing; the message says which or how many.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    return parse_annotation(data, str(path))


def parse_annotation(data: bytes, name: str) -> Annotation:
    """Read the content of an annotation file, as `read_annotation`; `name` is what messages call it."""
    rows: list[list[float]] = []
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        words = [word for word in re.split(r"[\s,;]+", line) if word]
        if not words:
            continue
        expected = "x y" if len(rows) < 7 else "x y w h"
        try:
            row = [float(word) for word in words]
        except ValueError:
            row = []
        if len(row) != len(expected.split()) or not all(abs(value) < 1e6 for value in row):  # NaN is refused too
            raise InputError(f"{name} line {number}: {line[:60]!r}, expected numbers '{expected}'")
        rows.append(row)
        if len(rows) > 14:
            raise InputError(f"{name} line {number}: an 8th box, expected 5 to 7")
    if len(rows) < 12:
        raise InputError(f"{name}: {len(rows)} lines, expected 7 lines 'x y' and then 5 to 7 lines 'x y w h'")
    return Annotation(np.array(rows[:7], np.float32), np.array(rows[7:], np.float32))


def write_annotation(path: Path, points: NDArray[np.floating], boxes: Sequence[Sequence[float]]) -> None:
    """Write `points` (7x2) and `boxes` (Kx4) in K-FACE's order, one decimal, separated by a space."""
    rows = [*np.asarray(points).tolist(), *(list(box) for box in boxes)]
    path.write_text("".join(" ".join(f"{value:.1f}" for value in row) + "\n" for row in rows), encoding="ascii")
