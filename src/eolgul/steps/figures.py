"""Figures of the steps as Kubeflow shows them: metrics with stable names, tables, curves.

Kubeflow's launcher fails a finished task for a metric that is null or not finite, so those are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from eolgul.evaluation.reader import HELD_OUT
from eolgul.evaluation.schema import Metrics
from eolgul.steps.places import Facts

_POINTS = 200  # of a curve: the page draws no more, and the whole is in report.html


class MetricsArtifact(Protocol):
    """KFP's `dsl.Metrics`."""

    def log_metric(self, metric: str, value: float) -> None:
        """Add a figure."""


def log_metrics(artifact: MetricsArtifact, values: Mapping[str, float | None]) -> None:
    """Log the figures that are finite numbers, with names of letters, digits and underscores."""
    for name, value in values.items():
        if value is not None and math.isfinite(value):
            artifact.log_metric(metric_name(name), float(value))


def metric_name(*words: str) -> str:
    """The words as the name of a metric: letters, digits and single underscores."""
    return re.sub(r"_+", "_", re.sub(r"\W|-", "_", "_".join(words))).strip("_")


def total(facts: Sequence[Facts], *names: str) -> dict[str, float | None]:
    """The sums of counts over several artifacts; a count that is unknown for one is left out of its sum."""
    return {name: sum(one[name] for one in facts if one.get(name) is not None) for name in names}


def table(facts: Sequence[Facts], columns: Sequence[str]) -> str:
    """A Markdown table with one row per artifact: its name, the given counts, whether it was there, its reference."""
    lines = [f"| artifact | {' | '.join(columns)} | made | reference |", "|---" * (len(columns) + 3) + "|"]
    for one in facts:
        name = str(one["artifact"]).rstrip("/").rpartition("/")[2]
        counts = (f"{one[column]:,}" if one.get(column) is not None else "" for column in columns)
        made = "before" if one.get("reused") else "now"
        lines.append(f"| {cell(name)} | {' | '.join(counts)} | {made} | `{cell(str(one['reference']))}` |")
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Text that does not end the cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def evaluation_figures(metrics: Metrics) -> dict[str, float | None]:
    """The few figures of an Evaluation that runs are compared by."""
    values: dict[str, float | None] = {}
    if metrics.calibration is not None:
        values["threshold"] = metrics.calibration.threshold
    for name, figures in metrics.sets.items():
        at = figures.at_threshold
        short = "held_out" if name == HELD_OUT else name
        values |= {
            metric_name(short, "accuracy"): figures.accuracy.mean,
            metric_name(short, "auc"): figures.auc,
            metric_name(short, "eer"): figures.eer,
            metric_name(short, "fmr"): None if at is None else at.fmr,
            metric_name(short, "fnmr"): None if at is None else at.fnmr,
        }
    return values


def roc(same: Sequence[bool], similarity: Sequence[float]) -> tuple[list[float], list[float], list[float]]:
    """The ROC curve of scored pairs, thinned to a few hundred points for the page.

    Returns:
        False match rates, true match rates and thresholds, from the highest threshold down; empty where one kind of pair
        is missing.
    """
    import numpy as np

    scores, genuine = np.asarray(similarity, float), np.asarray(same, bool)
    if genuine.all() or not genuine.any():
        return [], [], []
    order = np.argsort(-scores, kind="stable")
    scores, genuine = scores[order], genuine[order]
    ends = np.flatnonzero(np.append(np.diff(scores) != 0, True))  # equal scores pass together
    true, false = np.cumsum(genuine)[ends], np.cumsum(~genuine)[ends]
    keep = np.unique(np.linspace(0, len(ends) - 1, min(_POINTS, len(ends))).round().astype(int))
    fmr, tmr = false[keep] / false[-1], true[keep] / true[-1]
    return [0.0, *fmr.tolist()], [0.0, *tmr.tolist()], [float(scores[0]) + 1e-6, *scores[ends][keep].tolist()]


def confusion(same: Sequence[bool], similarity: Sequence[float], threshold: float) -> list[list[int]]:
    """Pairs of [one person, two people] (rows) judged [same, different] (columns) at the threshold."""
    counts = [[0, 0], [0, 0]]
    for genuine, score in zip(same, similarity, strict=True):
        counts[0 if genuine else 1][0 if score >= threshold else 1] += 1
    return counts


def log_curves(artifact: Any, evaluation: str, metrics: Metrics) -> None:
    """Give `dsl.ClassificationMetrics` a ROC curve and, where there is a threshold, the confusion matrix at it.

    They are of the held-out people, or of the first benchmark where there are none.
    """
    from eolgul.evaluation.scores_file import read_scores
    from eolgul.steps.places import bring

    scores = read_scores(bring(evaluation))
    name = HELD_OUT if HELD_OUT in scores else next(iter(scores))
    same, similarity = scores[name]["same"].to_pylist(), scores[name]["similarity"].to_pylist()
    fmr, tmr, thresholds = roc(same, similarity)
    if fmr:
        artifact.log_roc_curve(fmr, tmr, thresholds)
    if metrics.calibration is not None:
        matrix = confusion(same, similarity, metrics.calibration.threshold)
        artifact.log_confusion_matrix(["one person", "two people"], matrix)


def decision(made: Facts) -> str:
    """What promotion decided, as Markdown: the model and one line per reason."""
    head = "Promoted: this model is in production." if made["promoted"] else "Not promoted: production keeps its model."
    lines = [f"## {head}", "", f"Model `{made['digest']}`, at `{made['artifact']}`", ""]
    registered = [f"- The model {made['registered']}"] if "registered" in made else []
    return "\n".join([*lines, *(f"- {reason}" for reason in made["reasons"]), *registered]) + "\n"
