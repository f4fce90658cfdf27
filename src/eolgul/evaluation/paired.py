"""Two models on the very same pairs: the difference of their figures, with an interval that knows they share the pairs.

Most pairs are easy or hard for both models, so that a difference is far surer than two intervals side by side suggest:
every bootstrap resample of the subjects weighs both models' outcomes alike (paired bootstrap, Efron and Tibshirani
1993; resampling subjects as ISO/IEC 19795-1 advises, since comparisons that share a person are not independent).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from eolgul.errors import InputError
from eolgul.evaluation.bootstrap import RESAMPLES, Interval, Subjects, draw, percentiles

_SAME = ("left", "right", "same", "fold")
_BLOCK_CELLS = 4_000_000  # resamples x pairs held at once


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of two models on one set; `difference` is the candidate's less the current model's.

    `interval` is its 95 % interval, None where no resample held the kind of pair that the figure needs.
    """

    candidate: float
    current: float
    difference: float
    interval: Interval | None

    @property
    def surely_lower(self) -> bool:
        return self.interval is not None and self.interval[1] < 0

    def to_json(self) -> dict[str, Any]:
        interval = None if self.interval is None else list(self.interval)
        return {
            "candidate": self.candidate, "current": self.current, "difference": self.difference, "interval": interval,
        }  # fmt: skip


Differences = dict[str, dict[str, Difference]]


def differences(
    candidate: Path,
    current: Path,
    thresholds: tuple[float | None, float | None],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Differences:
    """{set: {figure: Difference}} of two Evaluation folders on the sets that both measured on the same pairs.

    Figures: `accuracy` (reference protocol, weighted by pair), and where both models have a threshold `fnmr` and `fmr`
    at each model's own. Sets whose pairs differ are left out. InputError when a folder's `scores.parquet` is missing,
    malformed or of an older version.
    """
    theirs, ours = _read(current), _read(candidate)
    found: Differences = {}
    for name, one in ours.items():
        other = theirs.get(name)
        if other is not None and len(one) == len(other) and one.select(_SAME).equals(other.select(_SAME)):
            found[name] = _compare(one, other, thresholds, seed, resamples)
    return found


def _read(evaluation: Path) -> dict[str, pa.Table]:
    file = evaluation / "scores.parquet"
    try:
        table = pq.read_table(
            file, columns=["set", *_SAME, "similarity", "correct", "left_subject", "right_subject"]
        ).combine_chunks()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: not the scores of an evaluation by this version; evaluate again") from error
    names = np.asarray(table["set"].to_pylist(), dtype=object)
    return {name: table.filter(pa.array(names == name)) for name in dict.fromkeys(names)}


def _compare(
    one: pa.Table, other: pa.Table, thresholds: tuple[float | None, float | None], seed: int, resamples: int
) -> dict[str, Difference]:
    same = _column(one, "same")
    places = {"genuine": np.flatnonzero(same), "impostor": np.flatnonzero(~same)}
    # The outcome of every pair with either model, as 0 or 1: of the pairs of one kind, or of all.
    outcomes = {"accuracy": ("all", _column(one, "correct"), _column(other, "correct"))}
    if thresholds[0] is not None and thresholds[1] is not None:
        accepted = [_column(table, "similarity") >= at for table, at in zip((one, other), thresholds, strict=True)]
        outcomes["fnmr"] = ("genuine", ~accepted[0], ~accepted[1])
        outcomes["fmr"] = ("impostor", accepted[0], accepted[1])
    subjects = None
    if one["left_subject"].null_count == 0:
        left, right = (_column(one, f"{side}_subject").astype(np.int64) for side in ("left", "right"))
        subjects = Subjects(left, right, int(max(left.max(), right.max())) + 1)
    drawn = _draws(outcomes, places, subjects, np.random.default_rng(seed), resamples)
    result = {}
    for figure, (kind, first, second) in outcomes.items():
        chosen = slice(None) if kind == "all" else places[kind]
        if len(first[chosen]) == 0:
            continue
        values = float(np.mean(first[chosen])), float(np.mean(second[chosen]))
        result[figure] = Difference(*values, values[0] - values[1], percentiles(drawn[figure]))
    return result


def _draws(
    outcomes: Mapping[str, tuple[str, NDArray[np.bool_], NDArray[np.bool_]]],
    places: Mapping[str, NDArray[np.int64]],
    subjects: Subjects | None,
    random: np.random.Generator,
    resamples: int,
) -> dict[str, NDArray[np.float64]]:
    """The differences in every resample; accuracy keeps the set's share of genuine pairs."""
    total = len(places["genuine"]) + len(places["impostor"])
    gap = {name: first.astype(np.float64) - second for name, (_, first, second) in outcomes.items()}
    parts: dict[str, list[NDArray[np.float64]]] = {name: [] for name in outcomes}
    block = max(1, _BLOCK_CELLS // total)
    for start in range(0, resamples, block):
        weights = dict(
            zip(
                ("genuine", "impostor"),
                draw(random, min(block, resamples - start), subjects, places["genuine"], places["impostor"]),
                strict=True,
            )
        )
        for name, (kind, _, _) in outcomes.items():
            kinds = ("genuine", "impostor") if kind == "all" else (kind,)
            value: NDArray[np.float64] = np.zeros(len(weights["genuine"]))
            for each in kinds:
                if len(places[each]) == 0:
                    continue
                share = len(places[each]) / total if kind == "all" else 1.0
                with np.errstate(invalid="ignore", divide="ignore"):  # a resample may lack one kind: NaN, left out
                    value = value + share * (weights[each] @ gap[name][places[each]] / weights[each].sum(axis=1))
            parts[name].append(value)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    return np.asarray(table[name].to_numpy())
