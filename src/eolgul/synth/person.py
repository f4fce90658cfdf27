"""A person who does not exist, as a record of numbers: everything in which one face differs from another.

`population` draws these records; `head` turns their shape into vertices.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eolgul.synth.mesh import MOUTH_LEFT, MOUTH_RIGHT, Reals, load_base, read_target, shape_parameters

# Number of identities of K-FACE's form in the year 99.
IDENTITIES = 36_500


@dataclass(frozen=True)
class Person:
    """One fictional person.

    Attributes:
        seed, index: the population and the person's number in it.
        male, age: as in K-FACE: both sexes equally often, 20–59 years.
        origin: weights of MakeHuman's (asian, african, caucasian) macro targets, summing to 1; a weight over 1
            exaggerates that target, and another weight is then below 0.
        weight, muscle: -1 to 1, MakeHuman's macro parameters.
        shape: shape parameter name → (person's right side, left side), signed.
        look: named scalars of skin, eyes, brows, hair, beard and make-up (see `population`).
        hair_style: one of `hair.STYLES`.
        seat: rotation (yaw, pitch, roll in degrees) and shift (x, y, z in decimetres) of the head, the same in all images.
        acting: strength of each facial action of an expression, around 0.9: people differ in how they smile.
    """

    seed: int
    index: int
    male: bool
    age: float
    origin: tuple[float, float, float]
    weight: float
    muscle: float
    shape: Mapping[str, tuple[float, float]]
    look: Mapping[str, float]
    hair_style: str
    seat: tuple[float, float, float, float, float, float]
    acting: tuple[float, ...]

    @property
    def identity(self) -> str:
        """Eight digits of K-FACE's form (yymmdd, rig, order), in the year 99, which no identity of K-FACE has."""
        return identity_of(self.seed, self.index)

    def years(self) -> float:
        """Age as a share of the way from MakeHuman's "young" (25 years) to its "old" (90), reduced to 0.8 of it."""
        return 0.8 * float(np.clip((self.age - 25) / 65, 0, 1))


def identity_of(seed: int, index: int) -> str:
    """The identity of person `index`: "99", month, day, and a two-digit order, unique among 36,500 indices.

    The seed shifts the sequence, so that people of different seeds usually differ in identity too.
    """
    day, order = divmod((index + 7919 * seed) % IDENTITIES, 100)
    date = datetime.date(1999, 1, 1) + datetime.timedelta(days=day)
    return f"{date:%y%m%d}{order:02d}"


def generator(seed: int, *path: int) -> np.random.Generator:
    """The random stream of one person or image: a pure function of the seed and the path."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *path])))


def add_target(vertices: Reals, name: str, weight: float, side: int = 0) -> None:
    """Add a target to vertices, in place.

    Args:
        vertices: (V, 3) of the base mesh, decimetres.
        name: see `mesh.read_target`.
        weight: 1 adds the whole target.
        side: 0 both halves of the face, -1 the person's right (x < 0), 1 the left; blended along the middle.
    """
    if abs(weight) < 1e-6:
        return
    index, delta = read_target(name)
    if side:
        half = np.clip(0.5 + side * load_base().vertices[index, :1] / 0.12, 0, 1)
        vertices[index] += weight * half * delta
    else:
        vertices[index] += weight * delta


def head(person: Person) -> Reals:
    """The person's head without an expression: (V, 3) positions of `mesh.load_base`'s vertices, decimetres."""
    vertices = load_base().vertices.copy()
    sex = "male" if person.male else "female"
    old = person.years()
    for age, share in (("young", 1 - old), ("old", old)):
        for origin, part in zip(("asian", "african", "caucasian"), person.origin, strict=True):
            add_target(vertices, f"macrodetails/{origin}-{sex}-{age}", share * part)
        heavy = "maxweight" if person.weight > 0 else "minweight"
        strong = "maxmuscle" if person.muscle > 0 else "minmuscle"
        weight, muscle = abs(person.weight), abs(person.muscle)
        for m, a in (("averagemuscle", 1 - muscle), (strong, muscle)):
            for w, b in (("averageweight", 1 - weight), (heavy, weight)):
                add_target(vertices, f"macrodetails/universal-{sex}-{age}-{m}-{w}", share * a * b)
    for parameter in shape_parameters():
        right, left = person.shape[parameter.name]
        for side, value in ((-1, right), (1, left)):
            names = parameter.positive if value > 0 or not parameter.negative else parameter.negative
            for name in names:
                stem = name.rsplit("/", 1)[1]
                own = {"l-": 1, "r-": -1}.get(stem[:2], 0)
                if own in (0, side):
                    # A target of one side is added in full; one of both sides is cut along the middle.
                    add_target(vertices, name, abs(value) if parameter.negative else max(value, 0), 0 if own else side)
    _narrow_mouth(vertices)
    return vertices


def _narrow_mouth(vertices: Reals) -> None:
    """Narrow the inside of the mouth behind the lips, in place: it would come through a flat chin."""
    base = load_base()
    inside = np.clip(2 * base.masks[:, 1] - 0.6, 0, 1)
    corners = vertices[[base.index(MOUTH_RIGHT), base.index(MOUTH_LEFT)]].mean(0)
    vertices[:, 1] += inside * 0.35 * (corners[1] - vertices[:, 1])
    vertices[:, 2] -= 0.05 * inside
