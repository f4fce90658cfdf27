"""The report's plots as inline SVG: no script, no clock, one ink colour that follows the page (light, dark, print)."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eolgul.evaluation.jackknife import limits, without_each
from eolgul.evaluation.schema import Condition, Discard, Training
from eolgul.model.calibration import Calibration
from eolgul.model.region import Region

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NO_ERROR = ": no error to draw"
_BAND = 60  # points of a band
_POINTS = 4000  # a curve with more points would only make the file larger
_INK = "#010203"  # replaced by `currentColor`, which matplotlib does not know
GENUINE, IMPOSTOR, MARK = "#2f7fd1", "#d9772b", "#8a4fbf"
# The texts of the plots in Korean. Numbers and names of sets are the same in both languages.
_KOREAN = {
    "cosine similarity": "코사인 유사도",
    "density": "밀도",
    "impostor pairs": "타인 쌍",
    "genuine pairs": "본인 쌍",
    "threshold": "임계값",
    "false match rate (FMR)": "타인 오수락률(FMR)",
    "false non-match rate (FNMR)": "본인 오거부율(FNMR)",
    "yaw (degrees)": "좌우 각도(yaw, 도)",
    "pitch (degrees)": "상하 각도(pitch, 도)",
    "genuine pairs left out (%)": "제외한 본인 쌍(%)",
    "FNMR of the rest (%)": "나머지의 FNMR(%)",
    "FMR on the calibration people": "보정용 대상자의 FMR",
    "finest rate the data supports": "이 데이터로 확인 가능한 최저 비율",
    "95 % interval": "95 % 신뢰구간",
    "sharpness": "선명도",
    "brightness": "밝기",
    "contrast": "대비",
    "yaw": "좌우 각도(yaw)",
    "eye distance": "눈 사이 거리",
    "detection score": "검출 점수",
    "Score histograms of genuine and impostor pairs": "본인·타인 쌍의 점수 히스토그램",
    "Detection error trade-off: false non-match rate against false match rate": "검출 오류 상충: FMR에 대한 FNMR",
    "False non-match rate by camera yaw and pitch": "카메라 각도별 본인 오거부율",
    "Error versus discard by image quality": "이미지 품질별 제외 비율과 오류",
    "epoch": "에포크",
    "loss without margin": "마진 없는 손실",
    "people it trains on": "학습 대상자",
    "validation people": "검증 대상자",
    "epoch kept": "선택한 에포크",
    "Loss of training people and of validation people by epoch": "에포크별 학습 대상자와 검증 대상자의 손실",
    "False match rate by similarity on the calibration people": "보정용 대상자의 유사도별 타인 오수락률",
    "False match rate and false non-match rate of degraded faces": "상태가 나빠진 얼굴의 타인 오수락률과 본인 오거부율",
    "blurred": "흐림",
    "shaken": "흔들림",
    "shaken aslant": "비스듬히 흔들림",
    "blurred and noisy": "흐림과 노이즈",
    "small and compressed": "작음과 압축",
    "small": "작음",
    "cut at the side": "옆이 잘림",
    "cut at the top": "위가 잘림",
    "cut at the bottom": "아래가 잘림",
    "dark": "어두움",
    "bright": "밝음",
    "noisy": "노이즈",
    "compressed": "압축",
    "as it is": "그대로",
    "FMR, all faces": "FMR, 모든 얼굴",
    "FMR, both faces inside": "FMR, 두 얼굴 모두 범위 안",
    "FMR allowed": "허용하는 FMR",
    "half of the faces outside": "얼굴 절반이 범위 밖",
}
# Kinds of degradation (eolgul.evaluate.degrade), in the order of the report.
_KINDS = {
    "blur": "blurred",
    "motion": "shaken",
    "motion_slanted": "shaken aslant",
    "shrink": "small",
    "cut_side": "cut at the side",
    "cut_top": "cut at the top",
    "cut_bottom": "cut at the bottom",
    "dark": "dark",
    "bright": "bright",
    "noise": "noisy",
    "jpeg": "compressed",
    "blur_noise": "blurred and noisy",
    "shrink_jpeg": "small and compressed",
}
_SERIES = ("#2f7fd1", "#d9772b", "#2f9e6e", "#8a4fbf", "#c2455e", "#7b8794", "#b59a1d", "#3aa6b9")


@dataclass(frozen=True, slots=True)
class Curves:
    """Genuine and impostor similarities of a set.

    `independent` is the number of independent impostor comparisons, `person` (int) the person of each genuine score
    (None where the set does not identify its people). The weights (int) are the numbers of comparisons with each score.
    """

    genuine: NDArray[Any]
    impostor: NDArray[Any]
    independent: int
    person: NDArray[Any] | None = None
    genuine_weight: NDArray[Any] | None = None
    impostor_weight: NDArray[Any] | None = None


def histogram(curves: Curves, threshold: float | None) -> str:
    """Draw genuine and impostor scores of one set as densities, with the threshold."""
    figure, axes = _figure("cosine similarity", "density")
    both = np.concatenate([curves.genuine, curves.impostor])
    ends = np.append(both, [] if threshold is None else threshold)
    edges = np.linspace(ends.min() - 0.02, ends.max() + 0.02, 61).tolist()
    kinds = (
        (curves.impostor, curves.impostor_weight, IMPOSTOR, "impostor pairs"),
        (curves.genuine, curves.genuine_weight, GENUINE, "genuine pairs"),
    )
    for scores, weight, colour, label in kinds:
        if len(scores):
            axes.hist(scores, bins=edges, weights=weight, density=True, color=colour, alpha=0.6, label=label)
    if threshold is not None:
        axes.axvline(threshold, color=MARK, linewidth=1.5, label="threshold")
    _legend(axes)
    return _svg(figure, "Score histograms of genuine and impostor pairs")


def det(sets: Mapping[str, Curves], threshold: float | None) -> str:
    """Draw FNMR against FMR of every set on logarithmic axes, with a dot at the one threshold.

    Bands: the 95 % interval of the FNMR over people (over pairs where those are unknown), at the threshold of each
    point. A curve ends at one in the number of independent impostor comparisons, and an FNMR of zero is not drawn; the
    legend names a set without an error in that range.
    """
    figure, axes = _figure("false match rate (FMR)", "false non-match rate (FNMR)")
    lowest = 0.05
    for number, (name, curves) in enumerate(sets.items()):
        if not len(curves.genuine) or not len(curves.impostor):
            continue
        floor = 1 / max(1, curves.independent)
        thresholds = np.unique(np.concatenate([curves.genuine, curves.impostor]))
        if len(thresholds) > _POINTS:
            thresholds = thresholds[np.linspace(0, len(thresholds) - 1, _POINTS).round().astype(np.int64)]
        fmr = 1 - _share_below(curves.impostor, curves.impostor_weight, thresholds)
        fnmr = _share_below(curves.genuine, curves.genuine_weight, thresholds)
        inside = (fmr >= floor) & (fnmr > 0)
        colour = _SERIES[number % len(_SERIES)]
        label = name if inside.any() else name + _NO_ERROR
        axes.plot(fmr[inside], fnmr[inside], color=colour, linewidth=1.6, label=label, drawstyle="steps-post")
        if inside.any():
            grid = np.flatnonzero(inside)
            grid = grid[np.unique(np.linspace(0, len(grid) - 1, _BAND).round().astype(np.int64))]
            low, high = _band(curves, thresholds[grid])
            axes.fill_between(fmr[grid], np.maximum(low, 1e-9), high, color=colour, alpha=0.15, linewidth=0)
        if threshold is not None:
            only = np.asarray([threshold])
            dot = (
                1 - float(_share_below(curves.impostor, curves.impostor_weight, only)[0]),
                float(_share_below(curves.genuine, curves.genuine_weight, only)[0]),
            )
            if dot[0] >= floor and dot[1] > 0:
                axes.plot(*dot, "o", color=colour, markersize=6)
        lowest = min([lowest, *fmr[inside], *fnmr[inside]])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(lowest / 1.5, 1.2)
    axes.set_ylim(lowest / 1.5, 1.2)
    axes.grid(True, which="major", color=_INK, alpha=0.12)
    _legend(axes)
    return _svg(figure, "Detection error trade-off: false non-match rate against false match rate")


def _share_below(scores: NDArray[Any], weight: NDArray[Any] | None, thresholds: NDArray[Any]) -> NDArray[np.float64]:
    """Return the share of comparisons with a score below each threshold."""
    order = np.argsort(scores, kind="stable")
    counts = np.ones(len(scores)) if weight is None else weight[order]
    below = np.concatenate([[0], np.cumsum(counts)])
    return np.asarray(below[np.searchsorted(scores[order], thresholds, side="left")] / below[-1])


def _band(curves: Curves, thresholds: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the 95 % interval of the FNMR at each threshold; an FNMR of 0 or 1 gives itself."""
    person = (
        np.arange(len(curves.genuine)) if curves.person is None else np.unique(curves.person, return_inverse=True)[1]
    )
    order = np.argsort(curves.genuine, kind="stable")
    subject, people = person[order], int(person.max()) + 1
    times = np.ones(len(order)) if curves.genuine_weight is None else curves.genuine_weight[order]
    refused = np.searchsorted(curves.genuine[order], thresholds, side="left")
    missed = np.stack([np.bincount(subject[:n], weights=times[:n], minlength=people) for n in refused])
    compared = np.bincount(subject, weights=times)
    rate = missed.sum(axis=1) / compared.sum()
    if people < 2:
        return rate, rate
    return limits(rate, without_each(missed.sum(axis=1, keepdims=True), compared.sum(), missed, compared))


def cameras(rows: Sequence[Condition]) -> str:
    """Draw FNMR, its interval (per cent) and the genuine pairs by the camera's yaw and pitch; darker is worse."""
    from matplotlib.patches import Rectangle

    placed = [(row.yaw, row.pitch, row) for row in rows if row.yaw is not None and row.pitch is not None]
    yaws = sorted({yaw for yaw, _, _ in placed}, reverse=True)
    pitches = sorted({pitch for _, pitch, _ in placed}, reverse=True)
    figure, axes = _figure("yaw (degrees)", "pitch (degrees)")
    worst = max([row.fnmr for *_, row in placed] + [1e-9])
    for yaw, pitch, row in placed:
        x, y = yaws.index(yaw), pitches.index(pitch)
        axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=IMPOSTOR, alpha=0.06 + 0.6 * row.fnmr / worst))
        ends = (
            ""
            if row.interval is None
            else "–".join("100" if end >= 0.995 else f"{100 * end:.2g}" for end in row.interval)
        )
        text = f"{100 * row.fnmr:.3g} %\n{ends}\nn {row.genuine}"
        size = min(8.0, 60 / len(yaws))
        axes.text(x, y, text, ha="center", va="center", fontsize=size, color=_INK)
    axes.set_xlim(-0.6, len(yaws) - 0.4)
    axes.set_ylim(len(pitches) - 0.4, -0.6)
    axes.set_xticks(range(len(yaws)), [f"{yaw:+d}" for yaw in yaws])
    axes.set_yticks(range(len(pitches)), [f"{pitch:+d}" for pitch in pitches])
    return _svg(figure, "False non-match rate by camera yaw and pitch")


def discard(quality: Mapping[str, Discard]) -> str:
    """Draw the FNMR when the genuine pairs of least quality are left out, one line per quality."""
    figure, axes = _figure("genuine pairs left out (%)", "FNMR of the rest (%)")
    for number, (name, curve) in enumerate(quality.items()):
        x, y = ([100 * value for value in values] for values in (curve.discarded, curve.fnmr))
        axes.plot(x, y, color=_SERIES[number % len(_SERIES)], linewidth=1.6, label=name.replace("_", " "))
    axes.set_ylim(bottom=0)
    _legend(axes)
    return _svg(figure, "Error versus discard by image quality")


def training(curve: Training) -> str:
    """Draw the closed-set losses of training people and of validation people by epoch, and the epoch that was kept."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure("epoch", "loss without margin")
    epochs = [row.epoch for row in curve.epochs]
    known = [(row.epoch, row.training_people) for row in curve.epochs if row.training_people is not None]
    style: dict[str, Any] = {"linewidth": 1.6, "marker": "o", "markersize": 3}
    if known:
        axes.plot(*zip(*known, strict=True), color=IMPOSTOR, linestyle="--", label="people it trains on", **style)
    axes.plot(
        epochs, [row.validation_people for row in curve.epochs], color=GENUINE, label="validation people", **style
    )
    axes.axvline(curve.best_epoch, color=MARK, linewidth=1.5, label="epoch kept")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    _legend(axes)
    return _svg(figure, "Loss of training people and of validation people by epoch")


def calibration_curve(calibration: Calibration) -> str:
    """Draw the false match rate of every threshold, the chosen threshold, its interval and the floor of the data."""
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


def region(found: Region) -> str:
    """Draw FMR and FNMR of degraded faces by kind and strength, and from where half of the faces lie outside the region.

    A rate of 0 is drawn at the lower edge.
    """
    from matplotlib.figure import Figure

    as_is = [rate for rate in found.rates if rate.kind == "none"]
    kinds = {kind: [*as_is, *rows] for kind in _KINDS if (rows := [rate for rate in found.rates if rate.kind == kind])}
    columns = min(4, len(kinds))
    lines = -(-len(kinds) // columns)
    figure = Figure(figsize=(3.0 * columns, 2.3 * lines + 0.6), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    floor = 0.5 / max(rate.impostor_pairs for rate in found.rates)
    for axes, (kind, rows) in zip(panels, kinds.items(), strict=False):
        _style(axes)
        place = list(range(len(rows)))
        shown = {
            "FMR, all faces": ([rate.fmr for rate in rows], IMPOSTOR, "-"),
            "FMR, both faces inside": ([rate.fmr_inside for rate in rows], IMPOSTOR, ":"),
            "false non-match rate (FNMR)": ([rate.fnmr or 0.0 for rate in rows], GENUINE, "-"),
        }
        for label, (values, colour, style) in shown.items():
            above = np.maximum(values, floor)
            axes.plot(place, above, color=colour, linestyle=style, marker="o", markersize=3, linewidth=1.4, label=label)
        axes.axhline(found.fmr_allowed, color=_INK, linewidth=1, linestyle="--", label="FMR allowed")
        if (edge := _half_outside([rate.images_inside for rate in rows])) is not None:
            axes.axvspan(edge, len(rows) - 0.7, color=MARK, alpha=0.15, linewidth=0, label="half of the faces outside")
        axes.set_yscale("log")
        axes.set_ylim(floor, 1.2)
        axes.set_xlim(-0.3, len(rows) - 0.7)
        axes.set_xticks(place, ["as it is", *(f"{rate.strength:g}" for rate in rows[1:])], fontsize=7)
        axes.set_title(_KINDS[kind], fontsize=9, color=_INK)
    for axes in panels[len(kinds) :]:
        axes.set_axis_off()
    handles: dict[str, Any] = {}
    for axes in panels:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        labelcolor=_INK,
        fontsize=8,
    )
    return _svg(figure, "False match rate and false non-match rate of degraded faces")


def _half_outside(inside: Sequence[float]) -> float | None:
    """Where the share of faces inside falls below one half, between two strengths; None where it does not."""
    for number in range(1, len(inside)):
        if inside[number] < 0.5 <= inside[number - 1]:
            return number - 1 + (inside[number - 1] - 0.5) / (inside[number - 1] - inside[number])
    return None


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.7), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
    _style(axes)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.tick_params(colors=_INK, which="both")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(_INK)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=_INK, fontsize=8)


def _svg(figure: Figure, title: str) -> str:
    """Return the figure as an `<svg>` element with an accessible title; the same data gives the same bytes."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    # Both languages are drawn in the same place, and the page shows one of them.
    text = re.sub(r"<text([^>]*)>([^<]*)</text>", _translate, text)
    label, korean = html.escape(title), html.escape(_KOREAN[title])
    attributes = f'role="img" aria-label="{label}" data-label-en="{label}" data-label-ko="{korean}"'
    return text.replace("<svg", f"<svg {attributes}", 1)


def _translate(text: re.Match[str]) -> str:
    """Return a `<text>` element as an English and a Korean one; names of sets and numbers stay one element."""
    english = html.unescape(text[2])
    korean = _KOREAN.get(english) or (
        f"{english.removesuffix(_NO_ERROR)}: 그릴 오류 없음" if english.endswith(_NO_ERROR) else None
    )
    if korean is None:
        return text[0]
    return f'<text lang="en"{text[1]}>{text[2]}</text><text lang="ko"{text[1]}>{html.escape(korean)}</text>'
