"""Where a model fails: FNMR by K-FACE's conditions, both error rates by group of people, errors against discarded quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.evaluate.all_pairs import Counts
from eolgul.evaluate.metrics import ScoredSet, all_pairs_metrics
from eolgul.evaluation.bootstrap import RESAMPLES, Subjects, percentiles, rule_of_three
from eolgul.formats.kface import RESOLUTIONS

# K-FACE's cameras as (yaw, pitch) in degrees: C1 to C13 in a row, seven above and below it.
CAMERAS: dict[str, tuple[int, int]] = {f"C{number}": (105 - 15 * number, 0) for number in range(1, 14)} | {
    "C14": (45, 30), "C15": (15, 30), "C16": (0, 30), "C17": (-15, 30), "C18": (-45, 30), "C19": (30, -15), "C20": (-30, -15),
}  # fmt: skip
QUALITIES = ("sharpness", "brightness", "contrast", "yaw", "eye_distance", "detection_score")
DISCARDS = tuple(number / 20 for number in range(11))  # shares of genuine pairs left out: 0 to one half
_LEAST_GENUINE = 20  # with fewer pairs a share of them is no curve


def breakdown(
    scored: ScoredSet,
    columns: Mapping[str, Sequence[str | None]],
    threshold: float,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, list[dict[str, Any]]]:
    """FNMR by condition at the threshold: per column and value, the genuine pairs with that value on either side.

    `columns` holds a value a manifest row. Columns whose value is unknown, or the same everywhere, say nothing and are
    left out. Every row has its `interval` (95 %, over people, by the rule of three at zero errors), a camera its `yaw`
    and `pitch` in degrees.
    """
    left, right = scored.left[scored.same], scored.right[scored.same]
    refused = scored.similarity[scored.same] < threshold
    person, people = _people(scored.subjects, scored.same)
    random = np.random.default_rng(seed)
    weight = random.multinomial(people, np.full(people, 1 / people), size=resamples).astype(np.float64)
    found: dict[str, list[dict[str, Any]]] = {}
    for column, values in columns.items():
        known = np.asarray(["" if value is None else value for value in values], dtype=object)
        names = sorted({*known[left], *known[right]} - {""}, key=_natural)
        if len(names) < 2:
            continue
        rows = []
        for name in names:
            here = (known[left] == name) | (known[right] == name)
            compared = np.bincount(person[here], minlength=people)
            missed = np.bincount(person[here & refused], minlength=people)
            n, errors = int(compared.sum()), int(missed.sum())
            with np.errstate(invalid="ignore", divide="ignore"):  # a resample may lack everybody who has the condition
                interval = percentiles(weight @ missed / (weight @ compared))
            interval = rule_of_three(interval, errors, int(np.count_nonzero(compared)))
            row: dict[str, Any] = {"value": name, "genuine": n, "errors": errors, "fnmr": errors / n}
            row["interval"] = None if interval is None else list(interval)
            if column == "camera" and name in CAMERAS:
                row["yaw"], row["pitch"] = CAMERAS[name]
            rows.append(row)
        found[column] = rows
    return found


def groups(counts: Counts, group: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES) -> list[dict[str, Any]]:
    """FMR and FNMR of every group of people at the global threshold, all comparisons within the group.

    `group` is a name a subject of `counts`. Within-group comparisons are those that ISO/IEC 19795-10 asks for: people of
    one group are the likeliest to be confused. Groups that lack genuine or impostor comparisons, and a single group,
    have no place here. `fnmr_ratio` and `fmr_ratio` are to the whole; None where the whole made no error.
    """
    names = np.asarray(group, dtype=object)
    if len(set(group)) < 2:
        return []
    whole = {"fmr": int(counts.count.sum()) / counts.impostor, "fnmr": int(counts.misses.sum()) / counts.genuine}
    rows = []
    for name in sorted(set(group)):
        part = counts.part(names == name)
        if not part.genuine or not part.impostor:
            continue
        row: dict[str, Any] = {"group": name, "people": part.subjects}
        row |= all_pairs_metrics(part, seed=seed, resamples=resamples)
        row |= {f"{rate}_ratio": row[rate] / whole[rate] if whole[rate] else None for rate in ("fmr", "fnmr")}
        rows.append(row)
    return rows


def discards(
    scored: ScoredSet, columns: Mapping[str, Sequence[float | None]], threshold: float
) -> dict[str, dict[str, Any]]:
    """FNMR at the threshold when the genuine pairs of least quality are left out (Grother and Tabassi, PAMI 2007).

    `columns` holds a value a manifest row, higher being better (a yaw the nearer to 0); a pair is as good as the worse
    of its pictures. Pairs with an unknown value are left out; so are columns with few known or all equal. Equal
    qualities are kept in the order of the pairs.
    """
    left, right = scored.left[scored.same], scored.right[scored.same]
    refused = scored.similarity[scored.same] < threshold
    found: dict[str, dict[str, Any]] = {}
    for column, values in columns.items():
        quality = np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)
        if column == "yaw":
            quality = -np.abs(quality)
        worse = np.minimum(quality[left], quality[right])  # NaN where either is unknown
        known = np.flatnonzero(np.isfinite(worse))
        if len(known) < _LEAST_GENUINE or np.ptp(worse[known]) == 0:
            continue
        ordered = refused[known[np.argsort(worse[known], kind="stable")]]
        starts = [int(share * len(ordered)) for share in DISCARDS]
        found[column] = {
            "pairs": len(known),
            "unknown": len(left) - len(known),
            "discarded": list(DISCARDS),
            "fnmr": [float(np.mean(ordered[start:])) for start in starts],
        }
    return found


def _people(subjects: Subjects | None, same: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Whose each genuine pair is; where the set does not say, each pair counts as a person of its own."""
    if subjects is None:
        count = int(np.count_nonzero(same))
        return np.arange(count), count
    return subjects.left[same], subjects.count


def _natural(name: str) -> tuple[str, int]:
    """C2 before C10, and the resolutions from the finest."""
    if name in RESOLUTIONS:
        return "", RESOLUTIONS.index(name)
    digits = "".join(filter(str.isdigit, name))
    return name.rstrip("0123456789"), int(digits) if digits else 0
