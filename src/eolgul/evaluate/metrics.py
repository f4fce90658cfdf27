"""The figures of one set of scored pairs, as the JSON values that `metrics.json` holds and the report prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.evaluate import likelihood, protocol
from eolgul.evaluate.all_pairs import Counts, Everything
from eolgul.evaluate.calibrate import threshold_at
from eolgul.evaluate.intervals import Outcome, all_pairs_intervals, intervals
from eolgul.evaluation.bootstrap import LEVEL, Interval, Subjects, rule_of_three
from eolgul.model.calibration import Calibration

FMR_LEVELS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
CONDITIONS = ("source", "camera", "light", "expression", "accessory", "resolution")
WORST = 20


@dataclass(frozen=True, slots=True)
class ScoredSet:
    """Pairs with their scores, N each: manifest rows, `same`, `fold`, cosine similarity and squared distance (float64).

    `subjects` is None where the set does not tell who its people are. `acquisition` counts what never became a pair.
    `everything` holds counts of every comparison of the held-out people: the folds' pairs stay within a fold, which with few
    people leaves few pairs of different people, while rates at a threshold chosen elsewhere need no folds.
    """

    name: str
    kind: str
    digest: str
    synthetic: bool
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int32]
    similarity: NDArray[np.float64]
    distance: NDArray[np.float64]
    subjects: Subjects | None
    acquisition: Mapping[str, Any]
    everything: Everything | None = None
    groups: tuple[str, ...] = ()  # the source of every subject of `everything`


def set_metrics(scored: ScoredSet, calibration: Calibration | None, *, seed: int, resamples: int) -> dict[str, Any]:
    """All figures of a set. A rate that cannot be had is None, with a sentence beside it that says why.

    Without a calibration nothing is said about a threshold: `at_threshold` is None.
    """
    same, similarity = scored.same, scored.similarity
    genuine, impostor = np.sort(similarity[same]), np.sort(similarity[~same])
    accuracy = protocol.accuracy(scored.distance, same, scored.fold)
    threshold = math.inf if calibration is None else calibration.threshold
    accepted = similarity >= threshold
    sizes, folds_of = np.bincount(scored.fold), scored.fold
    outcome = Outcome(same, similarity, accepted, accuracy.correct, 1 / sizes[folds_of])
    bounds = intervals(outcome, scored.subjects, seed=seed, resamples=resamples)
    subject_pairs = None if scored.subjects is None else scored.subjects.pairs(~same)
    found = {
        "name": scored.name,
        "kind": scored.kind,
        "digest": scored.digest,
        "synthetic": scored.synthetic,
        "pairs": len(same),
        "genuine": len(genuine),
        "impostor": len(impostor),
        "folds": len(np.unique(scored.fold)),
        "identities": None if scored.subjects is None else scored.subjects.count,
        "subject_pairs": subject_pairs,
        "accuracy": {
            "mean": accuracy.mean,
            "std": accuracy.std,
            "interval": _list(bounds["protocol_accuracy"]),
            "folds": accuracy.folds.tolist(),
            "distance_thresholds": accuracy.thresholds.tolist(),
        },
        "tar_at_far": _tar(scored),
        "auc": protocol.auc(similarity, same),
        "auc_interval": _list(bounds["auc"]),
        "eer": protocol.eer(similarity, same),
        "cllr": _cllr(genuine, impostor, calibration),
        "at_threshold": None
        if calibration is None
        else _at_threshold(scored, accepted, threshold, bounds, subject_pairs),
        "best": _best(similarity, same),
        "fnmr_at_fmr": fnmr_at_fmr(genuine, impostor, subject_pairs),
        "all_pairs": None,
        "interval": {
            "level": LEVEL,
            "over": "pairs" if scored.subjects is None else "subjects",
            "resamples": resamples,
        },
        "acquisition": dict(scored.acquisition),
    }
    if scored.everything is not None:
        pairs = scored.everything
        found["all_pairs"] = all_pairs_metrics(pairs.counts, seed=seed, resamples=resamples)
        found["fnmr_at_fmr"] = _levels(pairs)
    found["generalized"] = generalized(found)
    return found


def all_pairs_metrics(counts: Counts, *, seed: int, resamples: int) -> dict[str, Any]:
    """FMR and FNMR of the one threshold over every comparison of the people, with intervals over people."""
    false_matches, false_non_matches = int(counts.count.sum()), int(counts.misses.sum())
    bounds = all_pairs_intervals(counts, seed=seed, resamples=resamples)
    people = int(np.count_nonzero(counts.own))
    return {
        "images": int(counts.images.sum()),
        "genuine": counts.genuine,
        "impostor": counts.impostor,
        "subject_pairs": counts.subject_pairs,
        "fmr": false_matches / counts.impostor,
        "fmr_interval": _list(rule_of_three(bounds["fmr"], false_matches, counts.subject_pairs)),
        "false_matches": false_matches,
        "fnmr": false_non_matches / counts.genuine,
        "fnmr_interval": _list(rule_of_three(bounds["fnmr"], false_non_matches, people)),
        "false_non_matches": false_non_matches,
    }


def _levels(everything: Everything) -> list[dict[str, Any]]:
    """`fnmr_at_fmr` of all comparisons."""
    strangers = everything.counts.subject_pairs
    rows: list[dict[str, Any]] = []
    for fmr, found in zip(FMR_LEVELS, everything.levels, strict=True):
        row: dict[str, Any] = {"fmr": fmr, "fnmr": None, "threshold": None, "reason": None}
        if found is None:
            row["reason"] = f"finer than 1 in {strangers} pairs of different people"
        else:
            _, row["threshold"], row["fnmr"] = found
        rows.append(row)
    return rows


def generalized(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Error rates that count a face not found as a refusal (ISO/IEC 19795-1); None where there is no threshold.

    With the share a of comparisons that were never made for want of a face, GFRR = a + (1 - a) FNMR and
    GFAR = (1 - a) FMR. a is the share of pairs lost where a benchmark counts them, else 1 - (1 - f)^2 with the share f
    of pictures without a face: both pictures of a comparison must have one, failures taken as independent.
    """
    at, acquisition = found["all_pairs"] or found["at_threshold"], found["acquisition"]
    if at is None or acquisition["rate"] is None:
        return None
    lost = acquisition["pairs_lost"]
    if lost is not None:
        basis, missing = "pairs", lost / (lost + found["pairs"])
    else:
        basis, missing = "images", 1 - (1 - acquisition["rate"]) ** 2
    return {
        "basis": basis,
        "not_compared": missing,
        "gfrr": None if at["fnmr"] is None else missing + (1 - missing) * at["fnmr"],
        "gfar": None if at["fmr"] is None else (1 - missing) * at["fmr"],
    }


def _cllr(
    genuine: NDArray[np.float64], impostor: NDArray[np.float64], calibration: Calibration | None
) -> dict[str, Any]:
    """What the calibrated likelihood ratios cost on this set (`carried`, bits), and the least any monotone map would."""
    if not len(genuine) or not len(impostor):
        return {"carried": None, "min": None}
    carried = None
    if calibration is not None and calibration.llr is not None:
        held = [np.clip(kind, calibration.llr.lowest, calibration.llr.highest) for kind in (genuine, impostor)]
        ratios = [calibration.llr.slope * kind + calibration.llr.offset for kind in held]
        carried = likelihood.cllr(ratios[0], ratios[1])
    return {"carried": carried, "min": likelihood.min_cllr(genuine, impostor)}


def _tar(scored: ScoredSet) -> dict[str, Any]:
    found = protocol.tar_at_far(scored.distance, scored.same, scored.fold)
    if found is None:
        reason = "a fold lacks genuine or impostor pairs"
        return {"target": protocol.FAR_TARGET, "tar": None, "std": None, "far": None, "reason": reason}
    return {"target": found.target, "tar": found.tar, "std": found.tar_std, "far": found.far, "reason": None}


def _at_threshold(
    scored: ScoredSet,
    accepted: NDArray[np.bool_],
    threshold: float,
    bounds: Mapping[str, Interval | None],
    subject_pairs: int | None,
) -> dict[str, Any]:
    """What the one calibrated threshold does on this set; the rates' intervals obey the rule of three."""
    same = scored.same
    false_matches = int(np.count_nonzero(accepted & ~same))
    false_non_matches = int(np.count_nonzero(~accepted & same))
    genuine, impostor = int(np.count_nonzero(same)), int(np.count_nonzero(~same))
    people = genuine if scored.subjects is None else len(np.unique(scored.subjects.left[same]))
    strangers = impostor if subject_pairs is None else subject_pairs
    return {
        "threshold": threshold,
        "fmr": false_matches / impostor if impostor else None,
        "fmr_interval": _list(rule_of_three(bounds["fmr"], false_matches, strangers)),
        "false_matches": false_matches,
        "fnmr": false_non_matches / genuine if genuine else None,
        "fnmr_interval": _list(rule_of_three(bounds["fnmr"], false_non_matches, people)),
        "false_non_matches": false_non_matches,
        "accuracy": 1 - (false_matches + false_non_matches) / len(same),
        "accuracy_interval": _list(bounds["accuracy"]),
    }


def _best(similarity: NDArray[np.float64], same: NDArray[np.bool_]) -> dict[str, Any]:
    """The threshold that this very set would choose for accuracy: an optimist's figure, shown to see the transfer."""
    order = np.argsort(-similarity, kind="stable")
    scores, hits = similarity[order], np.cumsum(same[order])
    cuts = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) + 1  # accept so many: equal scores go together
    gain = 2 * hits[cuts - 1] - cuts  # accepted genuine pairs less accepted impostor pairs; 0 for accepting nothing
    best = int(np.argmax(gain))
    cut = int(cuts[best]) if gain[best] > 0 else 0
    if cut == 0:
        threshold = float(np.nextafter(scores[0], np.inf))
    elif cut == len(scores):
        threshold = float(scores[-1])
    else:
        threshold = float((scores[cut - 1] + scores[cut]) / 2)
    accepted = similarity >= threshold
    genuine, impostor = int(np.count_nonzero(same)), int(np.count_nonzero(~same))
    return {
        "threshold": threshold,
        "accuracy": float(np.mean(accepted == same)),
        "fmr": int(np.count_nonzero(accepted & ~same)) / impostor if impostor else None,
        "fnmr": int(np.count_nonzero(~accepted & same)) / genuine if genuine else None,
    }


def fnmr_at_fmr(
    genuine: NDArray[np.float64],
    impostor: NDArray[np.float64],
    subject_pairs: int | None,
    levels: Sequence[float] = FMR_LEVELS,
) -> list[dict[str, Any]]:
    """FNMR at chosen FMRs (scores ascending). None, with the reason, where the comparisons cannot show such a rate."""
    rows: list[dict[str, Any]] = []
    independent = len(impostor) if subject_pairs is None else subject_pairs
    unit = "impostor pairs" if subject_pairs is None else "pairs of different people"
    for level in levels:
        row: dict[str, Any] = {"fmr": level, "fnmr": None, "threshold": None, "reason": None}
        if len(genuine) == 0 or len(impostor) == 0:
            row["reason"] = "the set lacks genuine or impostor pairs"
        elif level * independent < 1 - 1e-9:
            row["reason"] = f"finer than 1 in {independent} {unit}"
        else:
            row["threshold"] = threshold_at(genuine, impostor, level)
            row["fnmr"] = int(np.count_nonzero(genuine < row["threshold"])) / len(genuine)
        rows.append(row)
    return rows


def worst(scored: ScoredSet, image_ids: Sequence[str], count: int = WORST) -> dict[str, list[dict[str, Any]]]:
    """The genuine pairs that look least alike and the impostor pairs that look most alike, by image id."""
    found = {}
    for kind, chosen, sign in (("genuine", scored.same, 1), ("impostor", ~scored.same, -1)):
        places = np.flatnonzero(chosen)
        places = places[np.argsort(sign * scored.similarity[places], kind="stable")][:count]
        found[kind] = [
            {
                "left": image_ids[scored.left[place]],
                "right": image_ids[scored.right[place]],
                "similarity": float(scored.similarity[place]),
            }
            for place in places
        ]
    return found


def _list(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)
