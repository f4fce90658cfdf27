"""The report's plots as inline SVG: no script, no clock, one ink colour that follows the page (light, dark, print)."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eolgul.evaluate.calibration import Calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 4000  # a curve with more would only make the file larger
_INK = "#010203"  # stands for `currentColor`, which matplotlib cannot say
GENUINE, IMPOSTOR, MARK = "#2f7fd1", "#d9772b", "#8a4fbf"
_SERIES = ("#2f7fd1", "#d9772b", "#2f9e6e", "#8a4fbf", "#c2455e", "#7b8794", "#b59a1d", "#3aa6b9")


@dataclass(frozen=True, slots=True)
class Curves:
    """A set's genuine and impostor similarities, and how many independent impostor comparisons are behind them."""

    genuine: NDArray[Any]
    impostor: NDArray[Any]
    independent: int


def histogram(curves: Curves, threshold: float | None) -> str:
    """Genuine and impostor scores of one set, each as density, and where the verdict falls."""
    figure, axes = _figure("cosine similarity", "density")
    both = np.concatenate([curves.genuine, curves.impostor])
    ends = np.append(both, [] if threshold is None else threshold)
    edges = np.linspace(ends.min() - 0.02, ends.max() + 0.02, 61).tolist()
    kinds = ((curves.impostor, IMPOSTOR, "impostor pairs"), (curves.genuine, GENUINE, "genuine pairs"))
    for scores, colour, label in kinds:
        if len(scores):
            axes.hist(scores, bins=edges, density=True, color=colour, alpha=0.6, label=label)
    if threshold is not None:
        axes.axvline(threshold, color=MARK, linewidth=1.5, label="threshold")
    _legend(axes)
    return _svg(figure, "Score histograms of genuine and impostor pairs")


def det(sets: Mapping[str, Curves], threshold: float | None) -> str:
    """FNMR against FMR of every set, log-log, a dot where the one threshold lies.

    No curve goes below one in the number of independent impostor comparisons, nor is an FNMR of zero drawn; a set
    without an error in that range says so in the legend.
    """
    figure, axes = _figure("false match rate (FMR)", "false non-match rate (FNMR)")
    lowest = 0.05
    for number, (name, curves) in enumerate(sets.items()):
        genuine, impostor = np.sort(curves.genuine), np.sort(curves.impostor)
        if not len(genuine) or not len(impostor):
            continue
        floor = 1 / max(1, curves.independent)
        thresholds = np.unique(np.concatenate([genuine, impostor]))
        if len(thresholds) > _POINTS:
            thresholds = thresholds[np.linspace(0, len(thresholds) - 1, _POINTS).round().astype(np.int64)]
        fmr = 1 - np.searchsorted(impostor, thresholds, side="left") / len(impostor)
        fnmr = np.searchsorted(genuine, thresholds, side="left") / len(genuine)
        inside = (fmr >= floor) & (fnmr > 0)
        colour = _SERIES[number % len(_SERIES)]
        label = name if inside.any() else f"{name}: no error to draw"
        axes.plot(fmr[inside], fnmr[inside], color=colour, linewidth=1.6, label=label, drawstyle="steps-post")
        if threshold is not None:
            here = float(np.mean(impostor >= threshold)), float(np.mean(genuine < threshold))
            if here[0] >= floor and here[1] > 0:
                axes.plot(*here, "o", color=colour, markersize=6)
        lowest = min([lowest, *fmr[inside], *fnmr[inside]])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(lowest / 1.5, 1.2)
    axes.set_ylim(lowest / 1.5, 1.2)
    axes.grid(True, which="major", color=_INK, alpha=0.12)
    _legend(axes)
    return _svg(figure, "Detection error trade-off: false non-match rate against false match rate")


def calibration_curve(calibration: Calibration) -> str:
    """The false match rate of every possible threshold, the chosen one, its interval and the floor of the data."""
    figure, axes = _figure("cosine similarity", "false match rate (FMR)")
    axes.step(
        calibration.table_similarity,
        calibration.table_fmr,
        where="post",
        color=IMPOSTOR,
        linewidth=1.6,
        label="FMR on the calibration people",
    )
    axes.axhline(calibration.fmr_floor, color=_INK, linewidth=1, linestyle=":", label="finest rate the data supports")
    axes.axvspan(*calibration.threshold_interval, color=MARK, alpha=0.18, linewidth=0, label="95 % interval")
    axes.axvline(calibration.threshold, color=MARK, linewidth=1.5, label="threshold")
    axes.set_yscale("log")
    axes.set_ylim(calibration.fmr_floor / 2, 1.2)
    _legend(axes)
    return _svg(figure, "False match rate by similarity on the calibration people")


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.7), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
    axes.tick_params(colors=_INK, which="both")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(_INK)
    return figure, axes


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=_INK, fontsize=8)


def _svg(figure: Figure, title: str) -> str:
    """The figure as an `<svg>` element with an accessible title, the same bytes for the same data."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
