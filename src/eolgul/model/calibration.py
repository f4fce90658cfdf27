"""The calibration of a model: its threshold, and the false match rate of a threshold at any similarity.

Step 5 makes it (`eolgul.evaluate.calibrate`) and serving decides with it, so that only numpy is imported here.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError
from eolgul.model.region import Region

FORMAT = 1
_NUMBERS = ("threshold", "fmr_requested", "fmr_target", "fmr_floor", "fmr_observed", "fmr_upper", "fnmr_observed")
# calibration.json's table → the fields here.
_TABLE = {
    "similarity": "table_similarity",
    "fmr": "table_fmr",
    "fmr_low": "table_fmr_low",
    "fmr_high": "table_fmr_high",
}
_HISTOGRAMS = ("histogram_genuine", "histogram_impostor")
_COUNTS = ("subjects", "genuine_pairs", "impostor_pairs", "subject_pairs", "resamples")


@dataclass(frozen=True, slots=True)
class LikelihoodMap:
    """From similarity to log-likelihood ratio (natural logarithm): `slope` * similarity + `offset`.

    `cllr` and `min_cllr` (bits) are the cost of these ratios on the calibration data and that of the best monotone map.
    Outside `lowest` to `highest`, the range of the observed scores, the ratio is constant: nothing is extrapolated.
    """

    slope: float
    offset: float
    lowest: float
    highest: float
    cllr: float
    min_cllr: float

    def at(self, similarity: float) -> float:
        """The evidence of a similarity for one person (above 0) or for two (below 0)."""
        return self.slope * min(max(similarity, self.lowest), self.highest) + self.offset

    def ratios(self, similarity: NDArray[Any]) -> NDArray[np.float64]:
        """The same for an array of similarities: float64, N."""
        limited = np.clip(similarity.astype(np.float64), self.lowest, self.highest)
        return np.asarray(self.slope * limited + self.offset, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The verdict: two faces show one person when their cosine similarity is at least `threshold`.

    `fmr_target` is the rate the threshold was chosen for: `fmr_requested`, or `fmr_floor` = 1 / `subject_pairs` where
    the request is finer than the data supports (`fmr_basis` is "requested" or "finest_supported"). It is the rate to expect
    among other people; on the people who chose the threshold fewer pass (`fmr_observed`). `fmr_upper` is a 95 % upper
    bound of the threshold's FMR, at least 3 / subject_pairs: the rule of three. `threshold_interval` is a 95 % interval over
    subjects of the threshold whose FMR is `fmr_target`. The table maps a similarity to the FMR of a threshold there, `llr`
    to a log-likelihood ratio (None in files of older versions). `table_fmr_low` and `table_fmr_high` are the 95 % interval
    over subjects of each `table_fmr`, the upper end at least 3 / subject_pairs; `resamples` is the number of bootstrap
    resamples, 0 where the intervals need none (those of older versions did); the histograms count the scores
    in bins of equal width from -1 to 1 (all four are empty in files of older versions). `region`: the picture quality in
    which the rates hold (None in files of older versions, and where it was not measured).
    """

    threshold: float
    threshold_interval: tuple[float, float]
    fmr_requested: float
    fmr_target: float
    fmr_basis: str
    fmr_floor: float
    fmr_observed: float
    fmr_upper: float
    fnmr_observed: float
    subjects: int
    genuine_pairs: int
    impostor_pairs: int
    subject_pairs: int
    resamples: int
    table_similarity: tuple[float, ...]
    table_fmr: tuple[float, ...]
    llr: LikelihoodMap | None = None
    table_fmr_low: tuple[float, ...] = ()
    table_fmr_high: tuple[float, ...] = ()
    histogram_genuine: tuple[int, ...] = ()
    histogram_impostor: tuple[int, ...] = ()
    region: Region | None = None

    def same(self, similarity: float) -> bool:
        """Whether a cosine similarity means one person."""
        return similarity >= self.threshold

    def fmr_at(self, similarity: float) -> float:
        """The false match rate of a threshold at `similarity`: how often two different people are at least this similar.

        A step function that never rises with similarity and never understates the observed rate. It never returns less than
        `fmr_floor`, since the data supports no smaller rate; below the table it is 1.
        """
        row = bisect_right(self.table_similarity, similarity) - 1
        return 1.0 if row < 0 else max(self.table_fmr[row], self.fmr_floor)

    def fmr_interval_at(self, similarity: float) -> tuple[float, float] | None:
        """The 95 % interval of `fmr_at`, None if the file has no intervals; (0, 1) below the table."""
        if not self.table_fmr_low:
            return None
        row = bisect_right(self.table_similarity, similarity) - 1
        return (0.0, 1.0) if row < 0 else (self.table_fmr_low[row], self.table_fmr_high[row])

    def summary(self) -> dict[str, Any]:
        """Everything except the table, as JSON values."""
        value = asdict(self)
        for name in _TABLE.values():
            del value[name]
        for name in ("threshold_interval", *_HISTOGRAMS):
            value[name] = list(value[name])
        del value["region"]
        return value if self.region is None else value | {"region": self.region.to_json()}

    def to_json(self) -> dict[str, Any]:
        """The content of `calibration.json`."""
        table = {key: list(getattr(self, name)) for key, name in _TABLE.items() if getattr(self, name)}
        return {"format": FORMAT, **self.summary(), "table": table}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read what `to_json` writes.

        Raises:
            InputError: A value is missing, has a wrong type or contradicts another; the message names it.
        """
        try:
            if value["format"] != FORMAT:
                raise InputError(f"calibration: format {value['format']!r}, expected {FORMAT}")
            low, high = value["threshold_interval"]
            numbers: dict[str, Any] = {name: float(value[name]) for name in _NUMBERS}
            counts: dict[str, Any] = {name: int(value[name]) for name in _COUNTS}
            table = dict(value["table"])
            tables: dict[str, Any] = {name: tuple(map(float, table.get(key, ()))) for key, name in _TABLE.items()}
            histograms: dict[str, Any] = {name: tuple(map(int, value.get(name, ()))) for name in _HISTOGRAMS}
            calibration = cls(
                **numbers,
                **counts,
                threshold_interval=(float(low), float(high)),
                fmr_basis=str(value["fmr_basis"]),
                **tables,
                **histograms,
                llr=_likelihood(value.get("llr")),
                region=None if value.get("region") is None else Region.from_json(value["region"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"calibration: {type(error).__name__} at {error}; expected what step 5 writes") from error
        calibration._check()
        return calibration

    def _check(self) -> None:
        numbers = [getattr(self, name) for name in _NUMBERS] + [*self.threshold_interval]
        similarity, fmr = np.asarray(self.table_similarity), np.asarray(self.table_fmr)
        if not all(math.isfinite(number) for number in numbers):
            raise InputError("calibration: holds a number that is not finite")
        if not self.threshold_interval[0] <= self.threshold <= self.threshold_interval[1]:
            raise InputError("calibration: its threshold lies outside the threshold's interval")
        if self.fmr_basis not in ("requested", "finest_supported"):
            raise InputError(f"calibration: fmr_basis {self.fmr_basis!r}, expected requested or finest_supported")
        if not 0 < self.fmr_floor <= self.fmr_target <= 1:
            raise InputError("calibration: expected 0 < fmr_floor <= fmr_target <= 1")
        if len(similarity) == 0 or similarity.shape != fmr.shape or not np.all(np.isfinite(similarity)):
            raise InputError("calibration: its table needs as many finite similarities as rates, at least one")
        if np.any(np.diff(similarity) <= 0) or np.any(np.diff(fmr) > 0) or not np.all((fmr >= 0) & (fmr <= 1)):
            raise InputError("calibration: its table must rise in similarity and never in false match rate")
        ends = [np.asarray(values) for values in (self.table_fmr_low, self.table_fmr_high)]
        if len(ends[0]) and not (
            ends[0].shape == ends[1].shape == fmr.shape and np.all((ends[0] <= fmr) & (fmr <= ends[1]) & (ends[0] >= 0))
        ):
            raise InputError("calibration: its table's intervals must hold their rates, one each")
        if any(count < 0 for name in _HISTOGRAMS for count in getattr(self, name)):
            raise InputError("calibration: a histogram holds a negative count")
        if self.llr is not None and not all(math.isfinite(number) for number in asdict(self.llr).values()):
            raise InputError("calibration: holds a number that is not finite")


def _likelihood(value: dict[str, Any] | None) -> LikelihoodMap | None:
    return None if value is None else LikelihoodMap(**{name: float(number) for name, number in value.items()})
