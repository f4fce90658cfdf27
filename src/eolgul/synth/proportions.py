"""Reject impossible proportions of a face, computed from a person's parameters without a mesh.

Each shape parameter alone stays within the range of real faces, but several that act in the same direction do not, such
as a raised mouth below a lowered nose. About twenty distances between landmarks show this; they are nearly linear in the
parameters, so no mesh is needed.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from eolgul.synth.mesh import MOUTH_RIGHT, NOSE, Reals, load_base, read_target, shape_parameters
from eolgul.synth.person import Person

# Base mesh vertices on the midline and on the right half of the face (the wing of the nose: on the left half).
_POINTS = {
    "nasion": 133, "tip": NOSE, "subnasale": 343, "upper_lip": 466, "lower_lip": 491, "chin": 5296, "upper_lid": 0,
    "lower_lid": 41, "outer_eye": 23, "inner_eye": 105, "wing": 6960, "mouth": MOUTH_RIGHT, "jaw": 894, "cheek": 866,
    "temple": 5400, "crown": 881,
}  # fmt: skip
_X, _Y, _Z = range(3)
# (from, to, axis, lowest, highest): the limits of a distance along an axis in decimetres; without `to`: from the midline.
_LIMITS = (
    ("subnasale", "upper_lip", _Y, 0.062, 0.185),
    ("upper_lip", "lower_lip", _Y, 0.18, 0.285),
    ("lower_lip", "chin", _Y, 0.14, 0.40),
    ("nasion", "subnasale", _Y, 0.345, 0.54),
    ("inner_eye", "", _X, 0.075, 0.178),
    ("outer_eye", "", _X, 0.365, 0.505),
    ("upper_lid", "lower_lid", _Y, 0.054, 0.107),
    ("upper_lid", "nasion", _Y, 0.015, 0.135),
    ("mouth", "", _X, 0.185, 0.28),
    ("wing", "", _X, 0.15, 0.245),
    ("tip", "nasion", _Z, 0.115, 0.245),
    ("tip", "upper_lip", _Z, -0.02, 0.20),
    ("upper_lip", "chin", _Z, 0.07, 0.325),
    ("jaw", "", _X, 0.445, 0.65),
    ("cheek", "", _X, 0.575, 0.775),
    ("temple", "", _X, 0.64, 0.80),
    ("temple", "jaw", _X, 0.09, 0.23),
    ("upper_lid", "subnasale", _Y, 0.41, 0.63),
    ("upper_lid", "chin", _Y, 0.92, 1.34),
    ("crown", "upper_lid", _Y, 0.76, 1.19),
    ("crown", "chin", _Y, 1.76, 2.42),
)
_LOW, _HIGH = (np.array([limit[k] for limit in _LIMITS]) for k in (3, 4))


@cache
def _tables() -> tuple[Reals, dict[tuple[bool, bool], Reals], Reals, Reals]:
    """The distances of the base mesh, and what targets add to them.

    Returns:
        (D,) distances of the base mesh; (3 origins, D) per (male, old) macro target; (S, D) of the positive and of the
        negative ends of the shape parameters.
    """
    base = load_base()
    rows = {name: base.index(number) for name, number in _POINTS.items()}

    def distances(points: Reals) -> Reals:
        values = []
        for start, end, axis, _, _ in _LIMITS:
            apart = points[rows[start], axis] - (points[rows[end], axis] if end else 0)
            # The wing of the nose is on the left half, everything else on the right half, where x is negative.
            values.append(-apart if axis == _X and start != "wing" else apart)
        return np.array(values, np.float64)

    def added(names: tuple[str, ...]) -> Reals:
        moved = np.zeros_like(base.vertices)
        for name in names:
            index, delta = read_target(name)
            moved[index] += delta
        return distances(moved)

    macros = {}
    for male, sex in ((False, "female"), (True, "male")):
        for old, age in ((False, "young"), (True, "old")):
            per_origin = [
                added((f"macrodetails/{origin}-{sex}-{age}",)) for origin in ("asian", "african", "caucasian")
            ]
            macros[male, old] = np.stack(per_origin)
    positive = np.stack([added(parameter.positive) for parameter in shape_parameters()])
    negative = np.stack([added(parameter.negative) for parameter in shape_parameters()])
    return distances(base.vertices), macros, positive, negative


def plausible(person: Person) -> bool:
    """Whether all proportions of the face are within the limits of real faces."""
    distances = measures(person)
    return bool(((distances >= _LOW) & (distances <= _HIGH)).all())


def measures(person: Person) -> Reals:
    """(D,) the limited distances of the face in decimetres."""
    base, macros, positive, negative = _tables()
    old, origin = person.years(), np.array(person.origin)
    values = np.array([person.shape[parameter.name] for parameter in shape_parameters()]).mean(1)
    distances: Reals = base + (1 - old) * origin @ macros[person.male, False] + old * origin @ macros[person.male, True]
    distances += np.maximum(values, 0) @ positive + np.maximum(-values, 0) @ negative
    return distances
