"""Where a model fails: FNMR by K-FACE's conditions, error rates by group of people, errors by image quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from eolgul.evaluate.all_pairs import ErrorCounts
from eolgul.evaluate.metrics import ScoredSet, all_pairs_figures
from eolgul.evaluation.bootstrap import Subjects
from eolgul.evaluation.jackknife import fnmr_interval
from eolgul.evaluation.schema import Breakdown, Condition, Discard, Group
from eolgul.formats.kface import RESOLUTIONS

# K-FACE's cameras as (yaw, pitch) in degrees: C1 to C13 in a row, seven above and below it.
CAMERAS: dict[str, tuple[int, int]] = {f"C{number}": (105 - 15 * number, 0) for number in range(1, 14)} | {
    "C14": (45, 30), "C15": (15, 30), "C16": (0, 30), "C17": (-15, 30), "C18": (-45, 30), "C19": (30, -15), "C20": (-30, -15),
}  # fmt: skip
QUALITIES = ("sharpness", "brightness", "contrast", "yaw", "eye_distance", "detection_score")
DISCARDS = tuple(number / 20 for number in range(11))  # shares of genuine pairs left out: 0 to one half
_LEAST_GENUINE = 20  # fewer pairs give no meaningful curve


def breakdown(
    scored: ScoredSet,
    columns: Mapping[str, Sequence[str | None]],
    threshold: float,
) -> Breakdown:
    """Compute the FNMR by condition: per column and value, of the genuine pairs with that value on either side.

    Args:
        scored: The pairs.
        columns: Fields of `Breakdown`, each with one value per manifest row. Columns whose value is unknown, or the same
            everywhere, are left out.
        threshold: A similarity below it is an error.
    """
    left, right = scored.left[scored.same], scored.right[scored.same]
    refused = scored.similarity[scored.same] < threshold
    person, people = _people(scored.subjects, scored.same)
    by_column: dict[str, list[Condition]] = {}
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
            interval = fnmr_interval(missed, compared)
            angles = dict(zip(("yaw", "pitch"), CAMERAS.get(name, ()), strict=False)) if column == "camera" else {}
            rows.append(Condition(value=name, genuine=n, errors=errors, fnmr=errors / n, interval=interval, **angles))
        by_column[column] = rows
    return Breakdown(**by_column)


def groups(errors: ErrorCounts, group: Sequence[str]) -> list[Group]:
    """Compute FMR and FNMR of every group of people at the one threshold, over all comparisons within the group.

    `group[i]` is the group name of subject i in `errors`. Within-group comparisons are those that ISO/IEC 19795-10 asks
    for: people of one group are the likeliest to be confused. A group that lacks genuine or impostor comparisons is left
    out; a single group gives no row. The ratios are to the rates over all people, None where those are 0.
    """
    names = np.asarray(group, dtype=object)
    if len(set(group)) < 2:
        return []
    fmr, fnmr = int(errors.count.sum()) / errors.impostor, int(errors.misses.sum()) / errors.genuine
    rows = []
    for name in sorted(set(group)):
        within = errors.among(names == name)
        if not within.genuine or not within.impostor:
            continue
        figures = all_pairs_figures(within)
        rows.append(
            Group(
                **figures.model_dump(),
                group=name,
                people=within.subjects,
                fmr_ratio=figures.fmr / fmr if fmr else None,
                fnmr_ratio=figures.fnmr / fnmr if fnmr else None,
            )
        )
    return rows


def discards(scored: ScoredSet, columns: Mapping[str, Sequence[float | None]], threshold: float) -> dict[str, Discard]:
    """Compute the FNMR when the genuine pairs of least quality are left out (Grother and Tabassi, PAMI 2007).

    The quality of a pair is that of the worse of its images. Pairs with an unknown value are left out, and so is a column
    with few known values or equal ones. Pairs of equal quality keep their order.

    Args:
        scored: The pairs.
        columns: Qualities, each with one value per manifest row; higher is better, except for `yaw` (degrees), which is
            better the nearer it is to 0.
        threshold: A similarity below it is an error.
    """
    left, right = scored.left[scored.same], scored.right[scored.same]
    refused = scored.similarity[scored.same] < threshold
    curves: dict[str, Discard] = {}
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
        curves[column] = Discard(
            pairs=len(known),
            unknown=len(left) - len(known),
            discarded=list(DISCARDS),
            fnmr=[float(np.mean(ordered[start:])) for start in starts],
        )
    return curves


def _people(subjects: Subjects | None, same: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Return the person of each genuine pair and the number of people; each pair is one person where they are unknown."""
    if subjects is None:
        count = int(np.count_nonzero(same))
        return np.arange(count), count
    return subjects.left[same], subjects.count


def _natural(name: str) -> tuple[str, int]:
    """Sort key: C2 before C10, and the resolutions from the finest."""
    if name in RESOLUTIONS:
        return "", RESOLUTIONS.index(name)
    digits = "".join(filter(str.isdigit, name))
    return name.rstrip("0123456789"), int(digits) if digits else 0
