"""Two models on the same pairs: the difference of their figures, with an interval that accounts for the shared pairs.

Most pairs are easy or hard for both models, so a difference is far more certain than two intervals side by side
suggest: every bootstrap resample of the subjects gives both models' outcomes the same weights (paired bootstrap, Efron
and Tibshirani 1993; subjects are resampled as ISO/IEC 19795-1 advises, since comparisons that share a person are not
independent). The false match rate over all comparisons has the jackknife's interval (`eolgul.evaluation.jackknife`): most
of what it rests on are a few people, and resamples without them say too little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from eolgul.evaluation.bootstrap import RESAMPLES, Interval, Subjects, draw, percentiles
from eolgul.evaluation.jackknife import fmr_difference
from eolgul.evaluation.people_file import PeopleErrors, read_people
from eolgul.evaluation.reader import HELD_OUT
from eolgul.evaluation.scores_file import read_scores

_PAIR = ("left", "right", "same", "fold")  # the columns that make two rows the same pair
_BLOCK_CELLS = 4_000_000  # resamples x pairs in memory at once


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of two models on one set; `difference` is the candidate's value less the current model's.

    `interval` is its 95 % interval, None where no resample contained the kind of pair that the figure needs.
    """

    candidate: float
    current: float
    difference: float
    interval: Interval | None

    @property
    def surely_higher(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.interval is not None and self.interval[0] > 0

    @property
    def surely_lower(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.interval is not None and self.interval[1] < 0

    def to_json(self) -> dict[str, Any]:
        """The difference as JSON values."""
        interval = None if self.interval is None else list(self.interval)
        return {
            "candidate": self.candidate, "current": self.current, "difference": self.difference, "interval": interval,
        }  # fmt: skip


Differences = dict[str, dict[str, Difference]]  # {set: {figure: difference}}


def differences(
    candidate: Path,
    current: Path,
    thresholds: tuple[float | None, float | None],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Differences:
    """Compare two Evaluation folders on the pairs of each set that both measured.

    Pairs of people that either model learned from are left out. Where a model was measured only on held-out people that it
    did not learn from (`unseen_only`), the comparison is on the pairs that both measured.

    Args:
        candidate: The first Evaluation.
        current: The second Evaluation.
        thresholds: The calibrated threshold of each model, None without one.
        seed: Of the bootstrap.
        resamples: Of the bootstrap.

    Returns:
        {set: {figure: Difference}}. The figures are `accuracy` (reference protocol, weighted by pair) and, where both
        models have a threshold, `fnmr` and `fmr` at each model's own, and for held-out people `all_pairs_fmr`: the FMR
        over all comparisons of the people that both measured. Sets whose pairs differ otherwise are left out, and
        so are those of which no pair remains.

    Raises:
        InputError: `scores.parquet` or `people.parquet` of a folder is missing, malformed or of an older version.
    """
    theirs, ours = read_scores(current), read_scores(candidate)
    result: Differences = {}
    for name in (name for name in ours if name in theirs):
        table, other = ours[name], theirs[name]
        if name == HELD_OUT and len(table) != len(other):
            table, other = _common(table, other)
        if len(table) == len(other) and table.select(_PAIR).equals(other.select(_PAIR)):
            kept = pa.array(~(_seen(table) | _seen(other)))
            if kept.true_count:
                result[name] = _compare(table.filter(kept), other.filter(kept), thresholds, seed, resamples)
    if HELD_OUT in result and None not in thresholds:
        found = _all_pairs_fmr(read_people(candidate), read_people(current))
        result[HELD_OUT] |= {} if found is None else {"all_pairs_fmr": found}
    return result


def _all_pairs_fmr(candidate: PeopleErrors, current: PeopleErrors) -> Difference | None:
    """The difference of the FMR over all comparisons of the people that both measured; None for fewer than two people."""
    places = {name: place for place, name in enumerate(current.names) if not current.seen[place]}
    shared = [
        (place, places[name])
        for place, name in enumerate(candidate.names)
        if name in places and not candidate.seen[place] and candidate.images[place] == current.images[places[name]]
    ]
    if len(shared) < 2:
        return None
    images = candidate.images[[ours for ours, _ in shared]]
    own_compared = images * (images.sum() - images)
    ours, theirs = candidate.among([ours for ours, _ in shared]), current.among([theirs for _, theirs in shared])
    pairs = sorted(ours.keys() | theirs.keys())
    gap = np.array([ours.get(pair, 0) - theirs.get(pair, 0) for pair in pairs], dtype=np.int64)
    left, right = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    difference, interval = fmr_difference(left, right, gap, own_compared)
    compared = own_compared.sum() / 2
    return Difference(sum(ours.values()) / compared, sum(theirs.values()) / compared, difference, interval)


def _common(first: pa.Table, second: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows of two tables whose pairs are in both, each in the first one's order, if one has a part of the other's."""
    keys = [list(zip(*(side[name].to_pylist() for name in _PAIR[:3]), strict=True)) for side in (first, second)]
    places = {key: row for row, key in enumerate(keys[1])}
    shared = [(row, places[key]) for row, key in enumerate(keys[0]) if key in places]
    if len(shared) != min(len(first), len(second)) or len(places) != len(second):
        return first, second
    rows = [pa.array(side, pa.int64()) for side in zip(*shared, strict=True)]
    ours, theirs = first.take(rows[0]), second.take(rows[1])
    # Where people were left out, the folds that remain have other numbers.
    place = theirs.schema.get_field_index("fold")
    return ours, theirs.set_column(place, theirs.schema.field(place), ours["fold"])


def _seen(table: pa.Table) -> NDArray[np.bool_]:
    """Whether a model is known to have learned from a person of each pair."""
    return np.asarray(pc.fill_null(table["seen"], False).to_numpy(), dtype=bool)


def _compare(
    candidate: pa.Table,
    current: pa.Table,
    thresholds: tuple[float | None, float | None],
    seed: int,
    resamples: int,
) -> dict[str, Difference]:
    same = _column(candidate, "same")
    positions = {"genuine": np.flatnonzero(same), "impostor": np.flatnonzero(~same)}
    # The outcome of every pair with either model, as 0 or 1: of the pairs of one kind, or of all.
    outcomes = {"accuracy": ("all", _column(candidate, "correct"), _column(current, "correct"))}
    if thresholds[0] is not None and thresholds[1] is not None:
        accepted = [
            _column(table, "similarity") >= threshold
            for table, threshold in zip((candidate, current), thresholds, strict=True)
        ]
        outcomes["fnmr"] = ("genuine", ~accepted[0], ~accepted[1])
        outcomes["fmr"] = ("impostor", accepted[0], accepted[1])
    subjects = None
    if candidate["left_subject"].null_count == 0:
        left, right = (_column(candidate, f"{side}_subject").astype(np.int64) for side in ("left", "right"))
        numbers, codes = np.unique(np.concatenate([left, right]), return_inverse=True)
        subjects = Subjects(codes[: len(left)], codes[len(left) :], len(numbers))
    drawn = _draws(outcomes, positions, subjects, np.random.default_rng(seed), resamples)
    result = {}
    for figure, (kind, first, second) in outcomes.items():
        chosen = slice(None) if kind == "all" else positions[kind]
        if len(first[chosen]) == 0:
            continue
        values = float(np.mean(first[chosen])), float(np.mean(second[chosen]))
        result[figure] = Difference(*values, values[0] - values[1], percentiles(drawn[figure]))
    return result


def _draws(
    outcomes: Mapping[str, tuple[str, NDArray[np.bool_], NDArray[np.bool_]]],
    positions: Mapping[str, NDArray[np.int64]],
    subjects: Subjects | None,
    random: np.random.Generator,
    resamples: int,
) -> dict[str, NDArray[np.float64]]:
    """Compute the differences in every resample; accuracy keeps the set's share of genuine pairs."""
    total = len(positions["genuine"]) + len(positions["impostor"])
    gap = {name: first.astype(np.float64) - second for name, (_, first, second) in outcomes.items()}
    parts: dict[str, list[NDArray[np.float64]]] = {name: [] for name in outcomes}
    block = max(1, _BLOCK_CELLS // total)
    for start in range(0, resamples, block):
        weights = dict(
            zip(
                ("genuine", "impostor"),
                draw(random, min(block, resamples - start), subjects, positions["genuine"], positions["impostor"]),
                strict=True,
            )
        )
        for name, (kind, _, _) in outcomes.items():
            kinds = ("genuine", "impostor") if kind == "all" else (kind,)
            value: NDArray[np.float64] = np.zeros(len(weights["genuine"]))
            for each in kinds:
                if len(positions[each]) == 0:
                    continue
                share = len(positions[each]) / total if kind == "all" else 1.0
                with np.errstate(invalid="ignore", divide="ignore"):  # a resample may lack one kind: NaN, left out
                    mean = weights[each] @ gap[name][positions[each]] / weights[each].sum(axis=1)
                value = value + share * mean
            parts[name].append(value)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    return np.asarray(table[name].to_numpy())
