"""Which of two measured models may be promoted, and why: the reasons are part of the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eolgul.errors import InputError
from eolgul.evaluation.bootstrap import RESAMPLES
from eolgul.evaluation.paired import Difference, Differences, differences
from eolgul.evaluation.reader import HELD_OUT, read_metrics


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to promote, and the sentences that say why or why not."""

    promote: bool
    reasons: list[str] = field(default_factory=list)


def acceptable(metrics: dict[str, Any]) -> Decision:
    """Whether a model may be the first in production: on people it never saw it must do better than chance.

    The lower end of the held-out AUC's 95 % interval must lie above 0.5, and the one threshold must accept somebody.
    Raises InputError when the metrics lack the held-out set.
    """
    held_out = _set(metrics, HELD_OUT, "candidate")
    interval = held_out["auc_interval"]
    against = []
    if interval is None or not interval[0] > 0.5:
        against.append(
            f"held-out AUC {_number(held_out['auc'])} is not surely better than chance (interval {interval})"
        )
    fnmr = held_out["at_threshold"]["fnmr"]
    if fnmr is None or fnmr >= 1:
        against.append("at the calibrated threshold no genuine held-out pair is accepted")
    if against:
        return Decision(False, against)
    return Decision(
        True,
        [
            f"held-out AUC {_number(held_out['auc'])}, 95 % interval from {_number(interval[0])}: better than chance",
            f"held-out FNMR {_number(fnmr)} at the threshold {_number(held_out['at_threshold']['threshold'])}",
        ],
    )


def compare(candidate: Path, current: Path, *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Two Evaluations side by side: {"sets": {set: {figure: difference with interval}}, "promote", "reasons"}.

    `promote` is whether `candidate` would replace `current`, None where an evaluation has no held-out people. InputError
    when the two share no set, or lack their figures.
    """
    found = _differences(candidate, current, seed, resamples)
    if not found:
        raise InputError(f"{candidate} and {current}: no set in common on the same pairs; evaluate both on one dataset")
    decided: dict[str, Any] = {"promote": None, "reasons": []}
    ours, theirs = read_metrics(candidate), read_metrics(current)
    if HELD_OUT in ours["sets"] and HELD_OUT in theirs["sets"]:
        decision = _decide(ours, theirs, found)
        decided = {"promote": decision.promote, "reasons": decision.reasons}
    sets = {name: {figure: item.to_json() for figure, item in of.items()} for name, of in found.items()}
    return {"sets": sets, **decided}


def better(candidate: Path, current: Path, *, seed: int = 0, resamples: int = RESAMPLES) -> Decision:
    """Whether a candidate replaces the current model (two Evaluation folders): a surely lower held-out FNMR at the
    calibrated FMR, paid for nowhere else. A tie keeps the current model.

    "Surely" and "nowhere else" are judged by the paired bootstrap difference: the interval of the held-out FNMR's lies
    below zero, that of no benchmark's accuracy does. The held-out FMR over all comparisons must not be above the current
    model's interval. Both must have been measured on the same pairs for the same FMR. Raises InputError when the
    metrics lack the held-out set, or scores are missing.
    """
    return _decide(read_metrics(candidate), read_metrics(current), _differences(candidate, current, seed, resamples))


def _differences(candidate: Path, current: Path, seed: int, resamples: int) -> Differences:
    at = [(read_metrics(place)["calibration"] or {}).get("threshold") for place in (candidate, current)]
    return differences(candidate, current, (at[0], at[1]), seed=seed, resamples=resamples)


def _decide(candidate_metrics: dict[str, Any], current_metrics: dict[str, Any], found: Differences) -> Decision:
    first = acceptable(candidate_metrics)
    if not first.promote:
        return first
    candidate = _set(candidate_metrics, HELD_OUT, "candidate")
    current = _set(current_metrics, HELD_OUT, "current model")
    if candidate["digest"] != current["digest"] or HELD_OUT not in found:
        return Decision(
            False, ["the two models were not measured on the same held-out pairs; evaluate both on one dataset"]
        )
    wanted = candidate_metrics["calibration"]["fmr_target"], current_metrics["calibration"]["fmr_target"]
    if wanted[0] != wanted[1]:
        return Decision(
            False, [f"the two models were calibrated for different false match rates ({wanted[0]}, {wanted[1]})"]
        )
    reasons: list[str] = []
    against: list[str] = []
    missed = found[HELD_OUT]["fnmr"]
    words = "lower" if missed.surely_lower else "not lower beyond doubt, and a tie keeps the current model"
    (reasons if missed.surely_lower else against).append(f"held-out FNMR {_told(missed)}: {words}")
    new, old = candidate["all_pairs"], current["all_pairs"]  # every comparison: many more of different people
    limit = old["fmr_interval"][1]
    if new["fmr"] > limit:
        against.append(
            f"held-out FMR {_number(new['fmr'])} is above the current model's interval (to {_number(limit)})"
        )
    for name in sorted(set(current_metrics["sets"]) - {HELD_OUT}):
        after = candidate_metrics["sets"].get(name)
        if after is None or after["digest"] != current_metrics["sets"][name]["digest"] or name not in found:
            against.append(f"{name}: the candidate was not measured on the current model's benchmark")
            continue
        right = found[name]["accuracy"]
        sentence = f"{name} accuracy {_told(right)}"
        (against if right.surely_lower else reasons).append(
            f"{sentence}: {'worse' if right.surely_lower else 'not worse'}"
        )
    return Decision(False, against) if against else Decision(True, reasons)


def _told(item: Difference) -> str:
    between = "" if item.interval is None else f", 95 % from {item.interval[0]:+.4g} to {item.interval[1]:+.4g}"
    return (
        f"{_number(item.candidate)} against the current model's {_number(item.current)} "
        f"(difference {item.difference:+.4g}{between})"
    )


def _set(metrics: dict[str, Any], name: str, who: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = metrics["sets"][name]
        found["at_threshold"]["fnmr"], found["auc_interval"], metrics["calibration"]["fmr_target"]
    except (KeyError, TypeError) as error:
        raise InputError(f"metrics of the {who}: lack the {name} set's figures ({error})") from error
    return found


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
