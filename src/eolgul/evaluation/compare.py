"""Decide which of two measured models may be promoted; the reasons are part of the decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eolgul.errors import InputError
from eolgul.evaluation.bootstrap import RESAMPLES
from eolgul.evaluation.paired import Difference, Differences, differences
from eolgul.evaluation.reader import HELD_OUT, read_metrics
from eolgul.evaluation.schema import AllPairs, AtThreshold, CalibrationSummary, Metrics, SetFigures


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to promote, and the sentences that say why or why not."""

    promote: bool
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two Evaluations side by side; `decision` is None where one of them has no held-out people."""

    sets: Differences
    decision: Decision | None

    def to_json(self) -> dict[str, Any]:
        """{"sets": {set: {figure: difference with interval}}, "promote", "reasons"} as JSON values."""
        return {
            "sets": {
                name: {figure: item.to_json() for figure, item in figures.items()}
                for name, figures in self.sets.items()
            },
            "promote": None if self.decision is None else self.decision.promote,
            "reasons": [] if self.decision is None else self.decision.reasons,
        }


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """The figures that a decision needs."""

    figures: SetFigures
    at_threshold: AtThreshold
    all_pairs: AllPairs
    calibration: CalibrationSummary

    @classmethod
    def from_metrics(cls, metrics: Metrics, whose: str) -> _HeldOut:
        figures, calibration = metrics.sets.get(HELD_OUT), metrics.calibration
        if figures is None:
            raise InputError(f"metrics of the {whose}: lack the {HELD_OUT} set; evaluate with a dataset")
        if calibration is None or figures.at_threshold is None or figures.all_pairs is None:
            raise InputError(f"metrics of the {whose}: lack the calibrated threshold; evaluate with a dataset")
        return cls(figures, figures.at_threshold, figures.all_pairs, calibration)


def acceptable(metrics: Metrics) -> Decision:
    """Decide whether a model may be the first in production: on people it never saw it must beat chance.

    The lower end of the held-out AUC's 95 % interval must lie above 0.5, at least one genuine pair must pass the one
    threshold, and the model must not be known to have learned from people whose figures count.

    Raises:
        InputError: The metrics lack the held-out set or the threshold.
    """
    held_out = _HeldOut.from_metrics(metrics, "candidate")
    auc, interval = held_out.figures.auc, held_out.figures.auc_interval
    fnmr, threshold = held_out.at_threshold.fnmr, held_out.at_threshold.threshold
    against, notes = _overlap(metrics, "candidate")
    if interval is None or not interval[0] > 0.5:
        ends = "unknown" if interval is None else f"from {_number(interval[0])} to {_number(interval[1])}"
        against.append(f"held-out AUC {_number(auc)} is not surely better than chance (95 % interval {ends})")
    if fnmr is None or fnmr >= 1:
        against.append("at the calibrated threshold no genuine held-out pair is accepted")
    if interval is None or against:
        return Decision(False, against)
    return Decision(
        True,
        [
            f"held-out AUC {_number(auc)}, 95 % interval from {_number(interval[0])}: better than chance",
            f"held-out FNMR {_number(fnmr)} at the threshold {_number(threshold)}",
            *notes,
        ],
    )


def _overlap(metrics: Metrics, whose: str) -> tuple[list[str], list[str]]:
    """What speaks against a model's figures because it learned from the people measured, and what must be said of them."""
    audit = metrics.audit
    if audit is None or audit.known == "none":
        return [], [f"what the {whose} learned from is unknown: it may have seen the held-out people"]
    against, notes = [], []
    for name, item in (("held-out", audit.sets.get(HELD_OUT)), ("calibration", audit.calibration)):
        if item is None or not item.people_in_training:
            continue
        found = f"{item.people_in_training} of the {item.people} {name} people"
        if audit.left_out:
            notes.append(f"{found} are left out of the {whose}'s figures: it learned from them")
        else:
            against.append(f"the {whose} learned from {found}: evaluate it with --unseen-only, or on other people")
    if audit.known == "part":
        notes.append(f"what the {whose} learned from is known in part: it may have seen more of the held-out people")
    return against, notes


def compare(candidate: Path, current: Path, *, seed: int = 0, resamples: int = RESAMPLES) -> Comparison:
    """Compare two Evaluation folders, and decide whether `candidate` would replace `current`.

    Raises:
        InputError: The two share no set on the same pairs, or lack their figures.
    """
    ours, theirs = read_metrics(candidate), read_metrics(current)
    sets = differences(candidate, current, _thresholds(ours, theirs), seed=seed, resamples=resamples)
    if not sets:
        raise InputError(
            f"{candidate} and {current}: no set in common on the same pairs; evaluate both models on one dataset"
        )
    both = HELD_OUT in ours.sets and HELD_OUT in theirs.sets
    return Comparison(sets, _decide(ours, theirs, sets) if both else None)


def better(candidate: Path, current: Path, *, seed: int = 0, resamples: int = RESAMPLES) -> Decision:
    """Decide whether a candidate replaces the current model (two Evaluation folders).

    It must have a surely lower held-out FNMR at the calibrated FMR and lose nothing elsewhere; a tie keeps the current
    model. The paired bootstrap difference decides: the interval of the held-out FNMR's difference lies below zero, and
    that of no benchmark's accuracy does. The held-out FMR over all comparisons must not be higher beyond doubt (paired
    jackknife over people), nor above the current model's interval. Both must have been measured on the same pairs for the
    same FMR.

    Raises:
        InputError: The metrics lack the held-out set or the threshold, or scores are missing.
    """
    ours, theirs = read_metrics(candidate), read_metrics(current)
    sets = differences(candidate, current, _thresholds(ours, theirs), seed=seed, resamples=resamples)
    return _decide(ours, theirs, sets)


def behind(candidate: Path, reference: Path, margin: float, *, seed: int = 0) -> Decision:
    """Decide whether a candidate keeps up with a reference model (two Evaluation folders).

    Its held-out FNMR may be no more than `margin` above the reference's, and its accuracy on any set no more than `margin`
    below. The differences themselves count, not whether they are beyond doubt: small losses that are each within their
    interval add up over many promotions.

    Raises:
        InputError: The two were not measured on the same held-out pairs, or lack their figures.
    """
    ours, theirs = read_metrics(candidate), read_metrics(reference)
    against, notes = _overlap(theirs, "reference model")
    sets = differences(candidate, reference, _thresholds(ours, theirs), seed=seed, resamples=1)
    if HELD_OUT not in sets or "fnmr" not in sets[HELD_OUT]:
        raise InputError(f"{reference}: the reference model was not measured on the candidate's held-out pairs")
    losses = {f"{HELD_OUT} FNMR": sets[HELD_OUT]["fnmr"].difference}
    losses |= {f"{name} accuracy": -figures["accuracy"].difference for name, figures in sets.items()}
    for what, loss in losses.items():
        if loss > margin + 1e-9:  # a difference of rounded shares
            against.append(f"{what} is {loss:.4g} worse than the reference model's, more than the margin {margin:g}")
    missing = sorted(set(theirs.sets) - set(sets))
    against += [f"{name}: cannot be compared with the reference model's" for name in missing]
    if against:
        return Decision(False, against + notes)
    worst = max(losses, key=lambda what: losses[what])
    words = f"at most {max(losses[worst], 0):.4g} behind the reference model ({worst}), the margin is {margin:g}"
    return Decision(True, [words, *notes])


def _thresholds(candidate: Metrics, current: Metrics) -> tuple[float | None, float | None]:
    first, second = candidate.calibration, current.calibration
    return None if first is None else first.threshold, None if second is None else second.threshold


def _decide(candidate: Metrics, current: Metrics, sets: Differences) -> Decision:
    first = acceptable(candidate)
    if not first.promote:
        return first
    new, old = _HeldOut.from_metrics(candidate, "candidate"), _HeldOut.from_metrics(current, "current model")
    against, notes = _overlap(current, "current model")
    if against:
        return Decision(False, against)
    left_out = any(item.audit is not None and item.audit.left_out for item in (candidate, current))
    if (new.figures.digest != old.figures.digest and not left_out) or HELD_OUT not in sets:
        return Decision(
            False, ["the two models were not measured on the same held-out pairs; evaluate both on one dataset"]
        )
    wanted = new.calibration.fmr_target, old.calibration.fmr_target
    if wanted[0] != wanted[1]:
        return Decision(
            False, [f"the two models were calibrated for different false match rates ({wanted[0]}, {wanted[1]})"]
        )
    reasons: list[str] = []
    missed = sets[HELD_OUT]["fnmr"]
    words = "lower" if missed.surely_lower else "not lower beyond doubt, and a tie keeps the current model"
    (reasons if missed.surely_lower else against).append(f"held-out FNMR {_describe(missed)}: {words}")
    # Of every comparison: it includes many more pairs of different people than the folds do.
    matched = sets[HELD_OUT].get("all_pairs_fmr")
    fmr, interval = new.all_pairs.fmr, old.all_pairs.fmr_interval
    if matched is not None and matched.surely_higher:
        against.append(f"held-out FMR {_describe(matched)}: higher")
    elif interval is None or fmr > interval[1]:  # with very few people no difference is beyond doubt
        upper = _number(None if interval is None else interval[1])
        against.append(f"held-out FMR {_number(fmr)} is above the current model's interval (to {upper})")
    for name in sorted(set(current.sets) - {HELD_OUT}):
        after = candidate.sets.get(name)
        if after is None or after.digest != current.sets[name].digest:
            against.append(f"{name}: the candidate was not measured on the current model's benchmark")
            continue
        seen = _benchmark_overlap(name, {"candidate": candidate, "current model": current})
        if name not in sets:
            against.append(f"{name}: " + (seen or "the two models were not measured on the same pairs"))
            continue
        notes += [f"{name}: {seen}"] if seen else []
        accuracy = sets[name]["accuracy"]
        verdict = "worse" if accuracy.surely_lower else "not worse"
        (against if accuracy.surely_lower else reasons).append(f"{name} accuracy {_describe(accuracy)}: {verdict}")
    notes = _overlap(candidate, "candidate")[1] + notes
    return Decision(False, against + notes) if against else Decision(True, reasons + notes)


def _benchmark_overlap(name: str, models: Mapping[str, Metrics]) -> str:
    """Say who learned from people or images of a benchmark; "" when nobody is known to have."""
    who = []
    for whose, metrics in models.items():
        found = None if metrics.audit is None else metrics.audit.sets.get(name)
        if found is not None and (found.people_in_training or found.images_in_training):
            people = f"{found.people_in_training} people, " if found.people_in_training else ""
            who.append(f"the {whose} learned from {people}{found.images_in_training or 0} images of it")
    return " and ".join(who) + "; pairs with them are left out" if who else ""


def _describe(item: Difference) -> str:
    between = "" if item.interval is None else f", 95 % from {item.interval[0]:+.4g} to {item.interval[1]:+.4g}"
    return (
        f"{_number(item.candidate)} against the current model's {_number(item.current)} "
        f"(difference {item.difference:+.4g}{between})"
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
