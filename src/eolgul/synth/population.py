"""The population: which people exist. Person n is the same whoever else is drawn, and resembles nobody before them.

An impossible face, or one that is too near an earlier one, is drawn again. So person n depends on the earlier people of
the same block of 100,000 (a millisecond per person), and on nothing else: not on the number of people that are drawn, nor
on the number of processes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import numpy as np

from eolgul.errors import InputError
from eolgul.synth.mesh import I32, Reals, shape_parameters
from eolgul.synth.person import Person, generator
from eolgul.synth.proportions import plausible

Origins = tuple[float, float, float]
# Shares of people of mostly (East Asian, African, Caucasian) origin. K-FACE is Korean; a few others add variety.
DEFAULT_ORIGINS: Origins = (0.7, 0.15, 0.15)
_ORIGIN_NAMES = ("asian", "african", "caucasian")
# People of a block are compared with each other.
BLOCK = 100_000

# Spread (standard deviation) of the shape parameters in units of MakeHuman's own extremes, by the start of their names;
# the first match counts. A recognizer distinguishes people mostly by the positions of eyes and brows and by the outline of
# chin and head: those vary most. Folds, edges of the lips and nostrils say little and soon look wrong: those vary least.
_SPREAD = {
    "chin/chin-cleft": 0.2, "chin/chin-triangle": 0.35, "chin/chin-prognathism": 0.34, "chin/": 0.5,
    "cheek/cheek-inner": 0.36, "cheek/": 0.42, "ears/ear-shape": 0.3, "ears/": 0.34, "eyebrows/eyebrows-angle": 0.45,
    "eyebrows/eyebrows-trans-forward": 0.42, "eyebrows/": 0.6, "eyes/eye-trans": 0.64, "eyes/eye-epicanthus": 0.64, "eyes/eye-scale": 0.51,
    "eyes/eye-push": 0.2, "eyes/eye-height": 0.37, "eyes/eye-bag": 0.28, "eyes/eye-corner": 0.4,
    "eyes/eye-eyefold": 0.37, "eyes/": 0.48, "forehead/forehead-temple": 0.4, "forehead/": 0.3,
    "head/head-scale-depth": 0.2, "head/head-back": 0.2, "head/head-scale": 0.34, "head/head-fat": 0.32,
    "head/": 0.24, "mouth/mouth-angles": 0.22, "mouth/mouth-cupidsbow": 0.26, "mouth/mouth-dimples": 0.2,
    "mouth/mouth-laugh": 0.24, "mouth/mouth-lowerlip": 0.22, "mouth/mouth-upperlip": 0.22,
    "mouth/mouth-philtrum": 0.24, "mouth/mouth-scale-depth": 0.22, "mouth/mouth-scale-vert": 0.26,
    "mouth/mouth-trans": 0.48, "mouth/": 0.36, "neck/": 0.2, "nose/nose-septumangle": 0.1, "nose/nose-nostrils": 0.18,
    "nose/nose-base": 0.26, "nose/nose-point": 0.34, "nose/nose-flaring": 0.26, "nose/nose-scale": 0.54,
    "nose/nose-trans": 0.54, "nose/nose-volume": 0.4, "nose/nose-hump": 0.5, "nose/nose-compression": 0.24,
    "nose/": 0.44,
}  # fmt: skip
# Asymmetry: each side of a face differs a little.
_LEAN = 0.04
# Corrections of MakeHuman's mean face, which looks grim and has a high forehead.
_MEAN = {"mouth/mouth-angles-up": 0.3, "eyebrows/eyebrows-angle-up": 0.15, "forehead/forehead-scale-vert-incr": -0.2}

_MEN = ("crop", "buzz", "fringe", "swept", "parted", "tousled")
_WOMEN = ("long", "long_fringe", "bob", "tied", "long_parted", "wavy", "pixie")
_COILED = ("coils", "buzz", "tied")


def parse_origins(text: str) -> Origins:
    """Parse shares such as `asian=0.8,african=0.1,caucasian=0.1`; a missing share is 0, and the sum is scaled to 1.

    Raises:
        InputError: an unknown name, a share that is not a number of at least 0, or shares that are all 0.
    """
    shares = dict.fromkeys(_ORIGIN_NAMES, 0.0)
    for clause in text.split(","):
        name, _, value = clause.strip().partition("=")
        if name not in shares or not re.fullmatch(r"\d*\.?\d+|\d+\.", value):
            raise InputError(f"origins {clause!r}, expected shares such as asian=0.8,african=0.1,caucasian=0.1")
        shares[name] = float(value)
    total = sum(shares.values())
    if not total:
        raise InputError(f"origins {text!r}: all shares are 0, expected at least one above 0")
    return (shares["asian"] / total, shares["african"] / total, shares["caucasian"] / total)


def draw_person(seed: int, index: int, origins: Origins = DEFAULT_ORIGINS) -> Person:
    """Draw person `index` of the population `seed`."""
    return next(people(seed, index, 1, origins))


def people(seed: int, first: int, count: int, origins: Origins = DEFAULT_ORIGINS) -> Iterator[Person]:
    """Draw persons `first` … `first + count - 1` of the population `seed`."""
    for index in range(first, first + count):
        yield _draw(seed, index, _block(seed, index // BLOCK, origins).attempt(index % BLOCK), origins)


# Near twins ------------------------------------------------------------------------------------------------------------

# Effect of a trait on a face: 100 times the square root of the similarity that a public recognizer loses by a change of
# one unit, measured with frontal images. Traits that are not listed have hardly any effect.
_WEIGHTS = {
    "cheek/cheek-volume-incr": 19, "chin/chin-height-incr": 22, "chin/chin-prominent-incr": 15,
    "chin/chin-width-incr": 20, "eyebrows/eyebrows-angle-up": 31, "eyebrows/eyebrows-trans-forward": 41,
    "eyebrows/eyebrows-trans-up": 29, "eyes/eye-epicanthus-out": 25, "eyes/eye-scale-incr": 17,
    "eyes/eye-trans-out": 30, "eyes/eye-trans-up": 27, "forehead/forehead-temple-incr": 21, "head/head-fat-incr": 29,
    "head/head-scale-horiz-incr": 30, "head/head-scale-vert-incr": 33, "mouth/mouth-lowerlip-height-incr": 18,
    "mouth/mouth-scale-horiz-incr": 23, "mouth/mouth-trans-forward": 24, "mouth/mouth-trans-up": 40,
    "nose/nose-base-up": 34, "nose/nose-curve-convex": 19, "nose/nose-greek-incr": 18, "nose/nose-hump-incr": 26,
    "nose/nose-point-up": 40, "nose/nose-scale-depth-incr": 29, "nose/nose-scale-horiz-incr": 28,
    "nose/nose-scale-vert-incr": 33, "nose/nose-trans-forward": 26, "nose/nose-trans-up": 28,
    "nose/nose-volume-incr": 29, "nose/nose-width3-incr": 23, "brow_height": 424, "brow_inner": 365,
    "brow_length": 114, "brow_thick": 40, "brow_dark": 38, "brow_tilt": 16,
}  # fmt: skip
_OF_ORIGIN, _OF_SEX = 42, 20
# Least squared distance between two people in this measure. Without it one in a hundred of the first 2,000 people would be
# nearer than this to an earlier one, while two random people are 9,400 apart.
_NEAR = 2600


def descriptor(person: Person) -> I32:
    """(D,) the person's look in the measure of `_WEIGHTS`, rounded to integers so that distances are exact."""
    face = [_OF_ORIGIN * share for share in person.origin]
    face.append(_OF_SEX * person.male)
    for name, weight in _WEIGHTS.items():
        value = sum(person.shape[name]) / 2 if "/" in name else person.look[name]
        face.append(weight * value)
    return np.rint(face).astype(np.int32)


class _Block:
    """The people of one block, drawn as far as requested."""

    def __init__(self, seed: int, number: int, origins: Origins) -> None:
        self._seed, self._begin, self._origins = seed, number * BLOCK, origins
        self._attempts: list[int] = []
        self._faces: I32 = np.zeros((256, 1), np.int32)

    def attempt(self, number: int) -> int:
        """The number of rejected draws of person `number` of this block."""
        while len(self._attempts) <= number:
            self._add_one()
        return self._attempts[number]

    def _add_one(self) -> None:
        known, attempt = len(self._attempts), 0
        while (face := self._face(known, attempt)) is None:
            attempt += 1
        if known == 0 or known == len(self._faces):
            larger = np.zeros((max(256, 2 * known), len(face)), np.int32)
            larger[:known] = self._faces[:known] if known else 0
            self._faces = larger
        self._faces[known] = face
        self._attempts.append(attempt)

    def _face(self, number: int, attempt: int) -> I32 | None:
        """The descriptor of a draw, or None for an impossible face or one that is too near an earlier one."""
        person = _draw(self._seed, self._begin + number, attempt, self._origins)
        if not plausible(person):
            return None
        face = descriptor(person)
        # 100,000 people are far from filling the space of faces: a few more attempts always suffice.
        near = number and int(((self._faces[:number] - face) ** 2).sum(1).min()) < _NEAR
        return None if near else face


@cache
def _block(seed: int, number: int, origins: Origins) -> _Block:
    return _Block(seed, number, origins)


# One draw --------------------------------------------------------------------------------------------------------------


@cache
def _spreads() -> Reals:
    """(S,) standard deviations of `shape_parameters`."""
    names = [parameter.name for parameter in shape_parameters()]
    return np.array([next(s for start, s in _SPREAD.items() if name.startswith(start)) for name in names])


@cache
def _means() -> Reals:
    return np.array([_MEAN.get(parameter.name, 0.0) for parameter in shape_parameters()])


def _draw(seed: int, index: int, attempt: int, origins: Origins) -> Person:
    """Draw a person for the `attempt`-th time, without comparing them with others."""
    rng = generator(seed, index, 0, attempt)
    male = bool(rng.random() < 0.5)
    age = float(rng.uniform(20, 60))
    origin = _draw_origin(rng, origins)
    spreads = _spreads()
    # Flat in the middle, without tails: as much variety as a normal distribution with half as many extreme faces.
    flat = rng.uniform(-1.6, 1.6, len(spreads)) + rng.uniform(-0.65, 0.65, len(spreads))
    values = _means() + spreads * flat
    lean = np.clip(rng.standard_normal((2, len(spreads))), -2.5, 2.5) * _LEAN * spreads / 0.38
    names = [parameter.name for parameter in shape_parameters()]
    right, left = (values + lean[0]).tolist(), (values + lean[1]).tolist()
    coiled = rng.random() < np.clip(1.6 * origin[1] - 0.2, 0, 1)
    styles = _COILED if coiled else _MEN if male else _WOMEN
    style = styles[int(rng.integers(len(styles)))]
    return Person(
        seed=seed,
        index=index,
        male=male,
        age=age,
        origin=origin,
        weight=float(rng.uniform(-1, 1)),
        muscle=float(rng.uniform(-0.8, 0.8)),
        shape=dict(zip(names, zip(right, left, strict=True), strict=True)),
        look=_draw_look(rng, male, age, origin),
        hair_style="bob" if coiled and not male and style == "buzz" else style,
        seat=tuple(float(x) for x in rng.normal(0, (2.0, 1.8, 1.0, 0.04, 0.05, 0.04))),  # type: ignore[arg-type]
        acting=tuple(rng.uniform(0.45, 1.3, 12).tolist()),
    )


def other_style(person: Person, rng: np.random.Generator) -> str:
    """Draw a hair style that the person might wear at another time."""
    styles = (
        _COILED
        if person.hair_style in ("coils", "buzz") and person.origin[1] > 0.4
        else _MEN
        if person.male
        else _WOMEN
    )
    return styles[int(rng.integers(len(styles)))]


def _draw_origin(rng: np.random.Generator, origins: Origins) -> Origins:
    """Draw the weights of the macro targets: mostly of one origin, and a little beyond it or towards the others."""
    chosen = int(np.searchsorted(np.cumsum(origins)[:-1], rng.random(), side="right"))
    main, share = float(rng.uniform(0.45, 1.25)), float(rng.random())
    others = [k for k in range(3) if k != chosen]
    if chosen == 0:
        share = 0.3 * share  # East Asian faces vary towards Caucasian ones more than towards African ones
    weights = [0.0, 0.0, 0.0]
    weights[chosen] = main
    weights[others[0]], weights[others[1]] = share * (1 - main), (1 - share) * (1 - main)
    return (weights[0], weights[1], weights[2])


def _draw_look(rng: np.random.Generator, male: bool, age: float, origin: Origins) -> dict[str, float]:
    """Draw the scalars of skin, eyes, brows, hair, beard and make-up; `paint` and `hair` define their meaning."""
    old = (age - 20) / 40
    asian, african, caucasian = (max(0.0, share) for share in origin)
    pale = caucasian * caucasian / (asian + african + caucasian)
    made_up = 0.0 if male else float(rng.random() < 0.6)
    grey = float(np.clip(rng.normal(old - 0.62, 0.2), 0, 0.85)) * float(rng.random() < 0.7)
    dyed = float(rng.random() < (0.12 if male else 0.3)) * float(rng.uniform(0.3, 1.0))
    fair = float(rng.random() < pale) * float(rng.beta(1.4, 1.6))
    bearded = male and rng.random() < 0.22
    return {
        "melanin": float(rng.uniform(-0.75, 0.95)) + 3.4 * african - 0.35 * pale + (0.1 if male else -0.1),
        "blood": float(np.clip(rng.normal(0.2, 0.4), -0.25, 1.1)) + 0.2 * pale,
        "blotch": float(rng.uniform(0.5, 1.6)),
        "ruddy": float(rng.normal(0.5, 0.55)),
        "freckles": float(max(0, rng.normal(-0.3 + 0.5 * pale, 0.8))),
        "moles": float(rng.poisson(3.0)),
        "spots": float(max(0, rng.normal(old * 1.3 - 0.35, 0.5))),
        "wrinkles": float(np.clip(rng.normal(old * 1.0, 0.2), 0, 1.3)),
        "under_eye": float(np.clip(rng.normal(0.4 + 0.3 * old, 0.35), 0, 1.4)),
        "shine": float(rng.uniform(0.3, 1.4)),
        "iris": float(rng.uniform(0, 1)),
        "iris_light": float(rng.random() < pale) * float(rng.uniform(0.3, 1)),
        "iris_hue": float(rng.uniform(0, 1)),
        "iris_size": float(rng.normal(0.061, 0.0022)),
        "brow_dark": float(rng.uniform(0.5, 1.25)),
        "brow_thick": float(rng.uniform(0.6, 2.0) if male else rng.uniform(0.4, 1.6)),
        "brow_arch": float(rng.normal(0.2 if male else 0.5, 0.6)),
        "brow_tilt": float(rng.uniform(-1.5, 1.0)),
        "brow_length": float(rng.uniform(0.78, 1.2)),
        "brow_inner": float(rng.uniform(-0.045, 0.05)),
        "brow_height": float(rng.uniform(-0.06, 0.125)),
        "brow_taper": float(rng.uniform(0.25, 1.0)),
        "lid_crease": float(np.clip(rng.uniform(-0.35, 1.0), 0, 1)),
        "lid_height": float(rng.uniform(0.022, 0.06)),
        "liner": made_up * float(rng.uniform(0, 1)),
        "lip_red": float(np.clip(rng.normal(0.35 if male else 0.6 + 0.6 * made_up, 0.25), 0, 1.6)),
        "lip_dark": float(np.clip(rng.normal(0.25 + 0.4 * african, 0.22), -0.1, 0.9)),
        "lip_hue": float(np.clip(rng.normal(0, 0.8), -1.1, 1.6)),
        "eyeshadow": made_up * float(rng.uniform(0, 0.8)),
        "blush": made_up * float(rng.uniform(0, 0.9)),
        "lash": 0.35 if male else 0.6 + 0.4 * made_up,
        "beard": float(rng.uniform(0.7, 1.6)) if bearded else float(np.clip(rng.normal(0.3, 0.3), 0, 1)) * male,
        "moustache": float(rng.uniform(0.6, 1.6)) if bearded else float(np.clip(rng.normal(0.35, 0.4), 0, 1.2)) * male,
        "beard_shape": float(rng.uniform(0, 1)),
        "hair_brown": max(dyed, fair, float(rng.beta(1.1, 4.0))),
        "hair_fair": fair * float(rng.uniform(0, 1)) + dyed * float(rng.random() < 0.1),
        "hair_red": float(rng.random() < 0.15 + 0.3 * dyed),
        "hair_grey": grey,
        "hair_volume": float(rng.uniform(0.6, 1.2)),
        "hair_length": float(rng.uniform(0, 1)),
        "hair_line": float(rng.uniform(-5, 5)) + (4.0 * old if male else 0.0),
        "hair_side": float(rng.choice([-1, 1])),
        "hair_swirl": float(rng.normal(0, 0.25)),
        "clothes": float(rng.random()),
        "clothes_hue": float(rng.random()),
    }
