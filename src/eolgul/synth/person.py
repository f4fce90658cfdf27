"""A person who does not exist: everything that makes one face differ from another, drawn from a seed.

Nothing here is rendered: a `Person` is a small record of numbers, and `head` turns its shape part into vertices.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eolgul.synth.mesh import Reals, load_base, read_target, shape_parameters

# Standard deviation of every shape parameter, in units of MakeHuman's own extremes. Below 0.3 people look too alike to a
# recognizer, above 0.5 they look like caricatures; with the gentler parameters below, 0.38 is where both are bearable.
SHAPE_SIGMA = 0.38
# Each side of a face also goes a little its own way.
_ASYMMETRY_SIGMA = 0.04
# Some parameters are so strong that their full spread gives faces nobody has.
_GENTLER = {
    "head/": 0.55, "ears/": 0.7, "neck/": 0.5, "cheek/": 0.8, "forehead/": 0.75, "eyebrows/": 0.6, "chin/chin-cleft": 0.5,
    "eyes/eye-push": 0.5, "eyes/eye-height": 0.75, "eyes/eye-bag": 0.7, "eyes/eye-corner": 0.6, "eyes/eye-eyefold": 0.7,
    "nose/nose-septumangle": 0.25, "nose/nose-nostrils": 0.45, "nose/nose-base": 0.6, "nose/nose-point": 0.65,
    "nose/nose-flaring": 0.7, "nose/nose-compression": 0.6, "mouth/mouth-angles": 0.5, "mouth/mouth-lowerlip-ext": 0.6,
    "mouth/mouth-upperlip-ext": 0.6, "mouth/mouth-scale-vert": 0.6, "mouth/mouth-upperlip-middle": 0.5,
    "mouth/mouth-lowerlip-middle": 0.5, "mouth/mouth-philtrum": 0.6, "mouth/mouth-cupidsbow": 0.7, "mouth/": 0.85,
}  # fmt: skip

# MakeHuman's face at rest looks grim and its forehead is high; people sitting for a picture do not.
_MEAN = {"mouth/mouth-angles-up": 0.3, "eyebrows/eyebrows-angle-up": 0.15, "forehead/forehead-scale-vert-incr": -0.2}

# So many identities of K-FACE's form the year 99 has.
IDENTITIES = 36_500

HAIR_STYLES_MALE = ("crop", "fringe", "swept", "parted")
HAIR_STYLES_FEMALE = ("long", "long_fringe", "bob", "tied", "long_parted")


@dataclass(frozen=True)
class Person:
    """One fictional person.

    Attributes:
        seed, index: what they were drawn from; the same pair is the same person for ever.
        male, age: K-FACE's population: both sexes equally often, 20–59 years.
        origin: weights of MakeHuman's (asian, african, caucasian) macro targets, summing to 1.
        shape: shape parameter name → (person's right side, left side), signed.
        look: named scalars of skin, eyes, brows, hair, beard and make-up (see `draw_person`).
        hair_style: one of HAIR_STYLES_MALE or HAIR_STYLES_FEMALE.
        seat: how they sit: (yaw, pitch, roll in degrees, x, y, z in decimetres), the same in all their pictures.
        smile, frown: how strongly they act E02 and E03, around 1.
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
    smile: float
    frown: float

    @property
    def identity(self) -> str:
        """Eight digits like K-FACE's (yymmdd, rig, order), in the year 99, in which K-FACE was not made."""
        return identity_of(self.seed, self.index)


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


def draw_person(seed: int, index: int) -> Person:
    """Draws person ``index`` of the population ``seed``."""
    rng = generator(seed, index, 0)
    male = bool(rng.random() < 0.5)
    age = float(rng.uniform(20, 60))
    asian = float(rng.uniform(0.72, 1.0)) if rng.random() < 0.93 else float(rng.uniform(0.2, 0.7))
    other = float(rng.beta(0.6, 1.2)) * (1 - asian)
    shape = {}
    for parameter in shape_parameters():
        sigma = SHAPE_SIGMA * next((g for k, g in _GENTLER.items() if parameter.name.startswith(k)), 1.0)
        value = float(np.clip(rng.normal(0, sigma), -2.4 * sigma, 2.4 * sigma)) + _MEAN.get(parameter.name, 0.0)
        lean = rng.normal(0, _ASYMMETRY_SIGMA * sigma / SHAPE_SIGMA, 2)
        shape[parameter.name] = (value + float(lean[0]), value + float(lean[1]))
    styles = HAIR_STYLES_MALE if male else HAIR_STYLES_FEMALE
    return Person(
        seed=seed,
        index=index,
        male=male,
        age=age,
        origin=(asian, other, 1 - asian - other),
        weight=float(np.clip(rng.normal(0, 0.6), -1, 1)),
        muscle=float(np.clip(rng.normal(0, 0.5), -1, 1)),
        shape=shape,
        look=_draw_look(rng, male, age, other),
        hair_style=styles[int(rng.integers(len(styles)))],
        seat=tuple(float(x) for x in rng.normal(0, (2.0, 1.8, 1.0, 0.04, 0.05, 0.04))),  # type: ignore[arg-type]
        smile=float(rng.uniform(0.75, 1.1)),
        frown=float(rng.uniform(0.75, 1.1)),
    )


def _draw_look(rng: np.random.Generator, male: bool, age: float, dark: float) -> dict[str, float]:
    """Skin, eyes, brows, hair, beard, make-up: scalars whose meaning `paint` and `hair` give them."""
    old = (age - 20) / 40
    made_up = 0.0 if male else float(rng.random() < 0.6)
    grey = float(np.clip(rng.normal(old - 0.62, 0.2), 0, 0.85)) * float(rng.random() < 0.7)
    return {
        "melanin": float(rng.normal(0.1 if male else -0.1, 0.42)) + 4.5 * dark,
        "blood": float(rng.normal(0.15, 0.4)),
        "blotch": float(rng.uniform(0.5, 1.5)),
        "ruddy": float(rng.normal(0.5, 0.5)),
        "freckles": float(max(0, rng.normal(-0.3, 0.8))),
        "moles": float(rng.poisson(2.5)),
        "spots": float(max(0, rng.normal(old * 1.2 - 0.3, 0.5))),
        "wrinkles": float(np.clip(rng.normal(old * 0.9, 0.2), 0, 1.2)),
        "under_eye": float(np.clip(rng.normal(0.4 + 0.3 * old, 0.3), 0, 1.3)),
        "shine": float(rng.uniform(0.4, 1.3)),
        "iris": float(rng.uniform(0, 1)),
        "iris_size": float(rng.normal(0.061, 0.0022)),
        "brow_dark": float(np.clip(rng.normal(0.95 if male else 0.78, 0.22), 0.35, 1.25)),
        "brow_thick": float(np.clip(rng.normal(1.15 if male else 0.85, 0.28), 0.4, 1.9)),
        "brow_arch": float(rng.normal(0.2 if male else 0.5, 0.5)),
        "brow_tilt": float(rng.normal(0, 0.6)),
        "brow_length": float(rng.normal(1, 0.09)),
        "brow_inner": float(rng.normal(0, 0.025)),
        "brow_height": float(rng.normal(0, 0.035)),
        "brow_taper": float(rng.uniform(0.3, 1.0)),
        "lip_red": float(np.clip(rng.normal(0.35 if male else 0.6 + 0.5 * made_up, 0.22), 0, 1.5)),
        "lip_dark": float(np.clip(rng.normal(0.25, 0.2), -0.1, 0.8)),
        "lip_hue": float(rng.normal(0, 1)),
        "eyeshadow": made_up * float(rng.uniform(0, 0.7)),
        "blush": made_up * float(rng.uniform(0, 0.8)),
        "lash": 0.35 if male else 0.6 + 0.4 * made_up,
        "beard": float(np.clip(rng.normal(0.35, 0.35), 0, 1.2)) if male else 0.0,
        "moustache": float(np.clip(rng.normal(0.4, 0.4), 0, 1.3)) if male else 0.0,
        "hair_brown": float(np.clip(rng.beta(1.2, 3.5 if male else 2.0), 0, 1)),
        "hair_grey": grey,
        "hair_volume": float(np.clip(rng.normal(1, 0.22), 0.55, 1.5)),
        "hair_length": float(rng.uniform(0, 1)),
        "hair_line": float(rng.normal(0, 3.0)) + (4.0 * old if male else 0.0),
        "hair_side": float(rng.choice([-1, 1])),
        "hair_swirl": float(rng.normal(0, 0.25)),
        "clothes": float(rng.random()),
    }


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
    # MakeHuman's "young" is 25 years and its "old" 90, linear between; fewer of a Korean's years show at 59.
    old = float(np.clip((person.age - 25) / 65, 0, 1)) * 0.8
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
    return vertices
