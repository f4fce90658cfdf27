"""The region of picture quality in which a calibration holds, and the reasons why a picture lies outside it.

A false match rate is measured on photos of a certain quality. To a network two blurred faces of strangers look alike, so
that the rate does not hold for them. Step 5 finds from where it does not hold (`eolgul.evaluate.region`); outside, serving
states no rate and no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self, get_args

from eolgul.errors import InputError

# A closed set, in the order of severity; part of the API: add, never rename.
Reason = Literal[
    "face_cut",
    "too_small",
    "blurred",
    "too_dark",
    "too_bright",
    "noisy",
    "compressed",
    "turned_away",
    "uncertain_face",
    "unclear",
]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
Ends = tuple[float | None, float | None]
# measure → the reason below the least value and the one above the greatest value that is allowed. `yaw` is without sign.
MEASURES: Final[Mapping[str, tuple[Reason | None, Reason | None]]] = {
    "cut": (None, "face_cut"),
    "eye_distance": ("too_small", None),
    "detail": ("blurred", None),
    "brightness": ("too_dark", None),
    "overexposed": (None, "too_bright"),
    "noise": (None, "noisy"),
    "texture": ("compressed", None),
    "yaw": (None, "turned_away"),
    "detection_score": ("uncertain_face", None),
    "norm": ("unclear", None),
}


@dataclass(frozen=True, slots=True)
class DegradedRate:
    """The error rates of the calibration people's faces degraded in one way to one strength, both faces of every pair.

    Attributes:
        kind: The kind of degradation, such as `blur` (`eolgul.evaluate.degrade`); `none` for the faces as they are.
        strength: In the unit of the kind.
        measure: The measure that this kind changes.
        value: Its median over the degraded faces; None where the network gives no `norm`.
        images_inside: Share of the faces inside the region.
        impostor_pairs: Number of pairs of different people.
        fmr: Share of these at or above the threshold.
        fmr_inside: Share of these at or above the threshold with both faces inside the region: what the service says.
        genuine_pairs: Number of pairs of one person.
        fnmr: Share of these below the threshold; None without such pairs.
    """

    kind: str
    strength: float
    measure: str
    value: float | None
    images_inside: float
    impostor_pairs: int
    fmr: float
    fmr_inside: float
    genuine_pairs: int
    fnmr: float | None


@dataclass(frozen=True, slots=True)
class Region:
    """Where the stated false match rate holds.

    Attributes:
        limits: For a measure (`MEASURES`) the least and the greatest value inside the region; None where there is no limit.
        fmr_allowed: The false match rate at the threshold that is exceeded outside.
        lost: Share of the genuine pairs of faces as they are that lie outside.
        images: Number of faces that were degraded.
        people: Number of people whom they show.
        rates: What was measured.
    """

    limits: Mapping[str, Ends]
    fmr_allowed: float
    lost: float
    images: int
    people: int
    rates: tuple[DegradedRate, ...] = ()

    def reasons(self, measures: Mapping[str, float]) -> tuple[Reason, ...]:
        """Why a face lies outside, most severe first; empty inside. A measure that is not given is not judged."""
        found = set()
        for name, (least, most) in self.limits.items():
            value = measures.get(name)
            if value is None:
                continue
            value = abs(value) if name == "yaw" else value
            below, above = MEASURES[name]
            if least is not None and not value >= least:  # not: NaN lies outside
                found.add(below)
            if most is not None and not value <= most:
                found.add(above)
        return tuple(reason for reason in REASONS if reason in found)

    def to_json(self) -> dict[str, Any]:
        """The value of `region` in `calibration.json`."""
        return asdict(self) | {
            "limits": {name: list(ends) for name, ends in self.limits.items()},
            "rates": [asdict(rate) for rate in self.rates],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read what `to_json` writes.

        Raises:
            InputError: A limit is of an unknown measure, or is not a finite number.
            KeyError, TypeError, ValueError: Another value is missing or has a wrong type.
        """
        limits: dict[str, Ends] = {}
        for name, (least, most) in value["limits"].items():
            if name not in MEASURES:
                raise InputError(f"calibration: region: measure {name!r}, expected one of {', '.join(MEASURES)}")
            ends = tuple(None if end is None else float(end) for end in (least, most))
            if any(end is not None and not math.isfinite(end) for end in ends):
                raise InputError(f"calibration: region: the limits of {name} are not finite")
            limits[name] = (ends[0], ends[1])
        return cls(
            limits,
            float(value["fmr_allowed"]),
            float(value["lost"]),
            int(value["images"]),
            int(value["people"]),
            tuple(DegradedRate(**rate) for rate in value["rates"]),
        )
