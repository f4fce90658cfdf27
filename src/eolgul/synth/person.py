"""A person who does not exist: everything that makes one face differ from another, as a small record of numbers.

`population` draws such records; `head` turns their shape part into vertices.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eolgul.synth.mesh import MOUTH_LEFT, MOUTH_RIGHT, Reals, load_base, read_target, shape_parameters

# So many identities of K-FACE's form the year 99 has.
IDENTITIES = 36_500


@dataclass(frozen=True)
class Person:
    """One fictional person.

    Attributes:
        seed, index: what they were drawn from.
        male, age: K-FACE's population: both sexes equally often, 20–59 years.
        origin: weights of MakeHuman's (asian, african, caucasian) macro targets, summing to 1; where one is over 1, faces
            are more of that kind than MakeHuman's own, and another is below 0.
        shape: shape parameter name → (person's right side, left side), signed.
        look: named scalars of skin, eyes, brows, hair, beard and make-up (see `population`).
        hair_style: one of `hair.STYLES`.
        seat: how they sit: (yaw, pitch, roll in degrees, x, y, z in decimetres), the same in all their pictures.
        acting: how strongly they do each facial action of an expression, around 0.9: nobody smiles like anybody else.
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
        """Eight digits like K-FACE's (yymmdd, rig, order), in the year 99, in which K-FACE was not made."""
        return identity_of(self.seed, self.index)

    def years(self) -> float:
        """Age on the way from MakeHuman's "young" (25 years) to its "old" (90): fewer of a Korean's years show at 59."""
        return 0.8 * float(np.clip((self.age - 25) / 65, 0, 1))


def identity_of(seed: int, index: int) -> str:
    """The identity of person ``index``: "99", month, day, and a two-digit order; no two of 36,500 indices share one.

    The seed turns the sequence, so that people of different seeds usually differ in name too.
    """
    day, order = divmod((index + 7919 * seed) % IDENTITIES, 100)
    date = datetime.date(1999, 1, 1) + datetime.timedelta(days=day)
    return f"{date:%y%m%d}{order:02d}"


def generator(seed: int, *path: int) -> np.random.Generator:
    """The random stream of one thing (a person, an image): a pure function of the seed and its path."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *path])))


def _add(vertices: Reals, name: str, weight: float, side: int = 0) -> None:
    """Adds a target in place. ``side``: 0 both halves, -1 only the person's right (x < 0), 1 only the left, blended."""
    if abs(weight) < 1e-6:
        return
    index, delta = read_target(name)
    if side:
        half = np.clip(0.5 + side * load_base().vertices[index, :1] / 0.12, 0, 1)
        vertices[index] += weight * half * delta
    else:
        vertices[index] += weight * delta


def head(person: Person) -> Reals:
    """The person's neutral head: (V, 3) positions of `mesh.load_base`'s vertices, decimetres."""
    vertices = load_base().vertices.copy()
    sex = "male" if person.male else "female"
    old = person.years()
    for age, share in (("young", 1 - old), ("old", old)):
        for origin, part in zip(("asian", "african", "caucasian"), person.origin, strict=True):
            _add(vertices, f"macrodetails/{origin}-{sex}-{age}", share * part)
        heavy = "maxweight" if person.weight > 0 else "minweight"
        strong = "maxmuscle" if person.muscle > 0 else "minmuscle"
        weight, muscle = abs(person.weight), abs(person.muscle)
        for m, a in (("averagemuscle", 1 - muscle), (strong, muscle)):
            for w, b in (("averageweight", 1 - weight), (heavy, weight)):
                _add(vertices, f"macrodetails/universal-{sex}-{age}-{m}-{w}", share * a * b)
    for parameter in shape_parameters():
        right, left = person.shape[parameter.name]
        for side, value in ((-1, right), (1, left)):
            names = parameter.positive if value > 0 or not parameter.negative else parameter.negative
            for name in names:
                stem = name.rsplit("/", 1)[1]
                own = {"l-": 1, "r-": -1}.get(stem[:2], 0)
                if own in (0, side):
                    # A target of a single side is added whole; one of both sides is cut along the middle.
                    _add(vertices, name, abs(value) if parameter.negative else max(value, 0), 0 if own else side)
    _narrow_mouth(vertices)
    return vertices


def _narrow_mouth(vertices: Reals) -> None:
    """Draws the mouth's inside together behind the lips, in place: a flat chin would let it through."""
    base = load_base()
    inside = np.clip(2 * base.masks[:, 1] - 0.6, 0, 1)
    corners = vertices[[base.index(MOUTH_RIGHT), base.index(MOUTH_LEFT)]].mean(0)
    vertices[:, 1] += inside * 0.35 * (corners[1] - vertices[:, 1])
    vertices[:, 2] -= 0.05 * inside
