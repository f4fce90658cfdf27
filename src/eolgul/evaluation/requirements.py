"""Requirements on an evaluation's figures: `FIGURE<=VALUE` or `FIGURE>=VALUE`, with `@fmr=RATE` and `@set=NAME`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from eolgul.errors import InputError
from eolgul.evaluation.reader import HELD_OUT
from eolgul.evaluation.schema import FMR_LEVELS, Metrics, SetFigures

_FORM = re.compile(r"(?P<figure>[a-z_]+)\s*(?P<sign><=|>=)\s*(?P<value>[^@\s]+)\s*(?P<where>(?:@[^@]+)*)")
_EXPECTED = "expected such as fnmr<=0.1@fmr=1e-3, auc>=0.99 or accuracy>=0.99@set=lfw"


def _fnmr(figures: SetFigures) -> float | None:
    whole = figures.all_pairs or figures.at_threshold
    return None if whole is None else whole.fnmr


def _fmr(figures: SetFigures) -> float | None:
    whole = figures.all_pairs or figures.at_threshold
    return None if whole is None else whole.fmr


# Each figure with the sign that a requirement of it has, and its value; the last two are counts.
_OF_SET: dict[str, tuple[str, Callable[[SetFigures], float | None]]] = {
    "accuracy": (">=", lambda figures: figures.accuracy.mean),
    "auc": (">=", lambda figures: figures.auc),
    "eer": ("<=", lambda figures: figures.eer),
    "fnmr": ("<=", _fnmr),
    "fmr": ("<=", _fmr),
}
_COUNTS = ("people_in_training", "images_in_training")
FIGURES = (*_OF_SET, *_COUNTS)


@dataclass(frozen=True, slots=True)
class Requirement:
    """A bound on one figure of one set; `fmr` is the false match rate that FNMR is read at, None for the threshold's."""

    text: str
    figure: str
    sign: str
    value: float
    fmr: float | None
    set: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a requirement.

        Raises:
            InputError: It has another form, an unknown figure, a value that the figure cannot have, or a sign that would ask
                for a bad model.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise InputError(f"require {text!r}: {_EXPECTED}")
        figure, sign = match["figure"], match["sign"]
        if figure not in FIGURES:
            raise InputError(f"require {text!r}: {figure} is no figure, expected one of {', '.join(FIGURES)}")
        wanted = "<=" if figure in _COUNTS else _OF_SET[figure][0]
        if sign != wanted:
            raise InputError(f"require {text!r}: {figure}{sign} asks for a bad model, expected {figure}{wanted}")
        value = _number(text, match["value"])
        if not (value >= 0 and (value.is_integer() if figure in _COUNTS else value <= 1)):
            raise InputError(
                f"require {text!r}: expected {'a whole number' if figure in _COUNTS else 'a value from 0 to 1'}"
            )
        places: dict[str, str] = {}
        for part in match["where"].split("@")[1:]:
            key, equals, of = (item.strip() for item in part.partition("="))
            if key not in ("fmr", "set") or not equals or not of or key in places:
                raise InputError(f"require {text!r}: @{part}: expected @fmr=RATE or @set=NAME, each once")
            places[key] = of
        fmr = _number(text, places["fmr"]) if "fmr" in places else None
        if fmr is not None and (figure != "fnmr" or fmr not in FMR_LEVELS):
            levels = ", ".join(f"{level:g}" for level in FMR_LEVELS)
            raise InputError(f"require {text!r}: @fmr is for fnmr, at one of {levels}")
        return cls(text.strip(), figure, sign, value, fmr, places.get("set", HELD_OUT))

    def check(self, metrics: Metrics) -> tuple[bool, str]:
        """Whether the evaluation meets it, and a sentence that says so. A figure that it does not have never passes."""
        found, why = self._find(metrics)
        if found is None:
            return False, f"{self.text} is required, but {self._name()} is unknown: {why}"
        met = found <= self.value if self.sign == "<=" else found >= self.value
        return met, f"{self._name()} is {found:.4g}: {self.text} is {'met' if met else 'required'}"

    def _name(self) -> str:
        at = "" if self.fmr is None else f" at FMR {self.fmr:g}"
        return f"{self.set} {self.figure.replace('_', ' ')}{at}"

    def _find(self, metrics: Metrics) -> tuple[float | None, str]:
        """The figure, or None and why there is none."""
        figures = metrics.sets.get(self.set)
        if figures is None:
            return None, f"the evaluation has the sets {', '.join(metrics.sets)}"
        if self.figure in _COUNTS:
            overlap = None if metrics.audit is None else metrics.audit.sets.get(self.set)
            return getattr(overlap, self.figure, None), "what the model learned from is not known, or not by name"
        if self.fmr is not None:
            for row in figures.fnmr_at_fmr:
                if row.fmr == self.fmr:
                    return row.fnmr, row.reason or "the set cannot show it"
            return None, "the evaluation does not have it"
        return _OF_SET[self.figure][1](figures), "the evaluation does not have it"


def _number(text: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(f"require {text!r}: {value!r} is no number; {_EXPECTED}") from None
