"""Which of two measured models may be promoted, from their `metrics.json` alone; the reasons are part of the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eolgul.errors import InputError

HELD_OUT = "held-out"


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


def better(candidate_metrics: dict[str, Any], current_metrics: dict[str, Any]) -> Decision:
    """Whether a candidate replaces the current model: a strictly lower held-out FNMR at the calibrated FMR, paid for
    nowhere else. A tie keeps the current model.

    Both must have been measured on the same held-out pairs for the same FMR. "Nowhere else" means that the held-out
    FMR is not above the current one's 95 % interval, and no benchmark's accuracy below its. Raises InputError when
    the metrics lack the held-out set.
    """
    first = acceptable(candidate_metrics)
    if not first.promote:
        return first
    candidate = _set(candidate_metrics, HELD_OUT, "candidate")
    current = _set(current_metrics, HELD_OUT, "current model")
    if candidate["digest"] != current["digest"]:
        return Decision(
            False, ["the two models were not measured on the same held-out pairs; evaluate both on one dataset"]
        )
    wanted = candidate_metrics["calibration"]["fmr_target"], current_metrics["calibration"]["fmr_target"]
    if wanted[0] != wanted[1]:
        return Decision(
            False, [f"the two models were calibrated for different false match rates ({wanted[0]}, {wanted[1]})"]
        )
    reasons, against = [], []
    new, old = candidate["at_threshold"], current["at_threshold"]
    sentence = f"held-out FNMR {_number(new['fnmr'])} against the current model's {_number(old['fnmr'])}"
    if new["fnmr"] < old["fnmr"]:
        reasons.append(f"{sentence}: lower")
    else:
        against.append(f"{sentence}: not lower")
    new, old = candidate["all_pairs"], current["all_pairs"]  # every comparison: many more of different people
    limit = old["fmr_interval"][1]
    if new["fmr"] > limit:
        against.append(
            f"held-out FMR {_number(new['fmr'])} is above the current model's interval (to {_number(limit)})"
        )
    for name, before in sorted(current_metrics["sets"].items()):
        if name == HELD_OUT:
            continue
        after = candidate_metrics["sets"].get(name)
        if after is None or after["digest"] != before["digest"]:
            against.append(f"{name}: the candidate was not measured on the current model's benchmark")
            continue
        mean = after["accuracy"]["mean"]
        low = (before["accuracy"]["interval"] or [before["accuracy"]["mean"]])[0]
        sentence = (
            f"{name} accuracy {_number(mean)} against {_number(before['accuracy']['mean'])} (from {_number(low)})"
        )
        (against if mean < low else reasons).append(f"{sentence}: {'worse' if mean < low else 'not worse'}")
    return Decision(False, against) if against else Decision(True, reasons)


def _set(metrics: dict[str, Any], name: str, who: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = metrics["sets"][name]
        found["at_threshold"]["fnmr"], found["auc_interval"], metrics["calibration"]["fmr_target"]
    except (KeyError, TypeError) as error:
        raise InputError(f"metrics of the {who}: lack the {name} set's figures ({error})") from error
    return found


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
