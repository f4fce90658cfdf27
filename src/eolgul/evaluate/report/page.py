"""The report: one self-contained HTML file with the figures of `metrics.json`, plots of the scores and thumbnails.

Every number is printed by `metric`, which marks it with its place in `metrics.json` (`data-metric`), its full value
(`data-value`) and its rounding (`data-format`), so that a test can compare the page with the file.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from pydantic import BaseModel

from eolgul.evaluate.report import plots
from eolgul.evaluation.schema import Metrics
from eolgul.images.decode import probe
from eolgul.model.calibration import Calibration

_MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
LANGUAGES = ("auto", "en", "ko")
TITLES = {
    "source": ("Source", "출처"),
    "camera": ("Camera (yaw and pitch)", "카메라(좌우·상하 각도)"),
    "light": ("Light", "조명"),
    "expression": ("Expression", "표정"),
    "accessory": ("Accessory", "액세서리"),
    "resolution": ("Resolution", "해상도"),
    "none": ("as it is", "그대로"),
    "blur": ("blurred (standard deviation, pixels)", "흐림(표준편차, 픽셀)"),
    "motion": ("shaken (pixels)", "흔들림(픽셀)"),
    "motion_slanted": ("shaken at 30° (pixels)", "30° 방향 흔들림(픽셀)"),
    "shrink": ("small (pixels between the eyes)", "작음(눈 사이 픽셀)"),
    "cut_side": ("cut off at the side (share)", "옆이 잘림(비율)"),
    "cut_top": ("cut off at the top (share)", "위가 잘림(비율)"),
    "cut_bottom": ("cut off at the bottom (share)", "아래가 잘림(비율)"),
    "dark": ("dark (factor of the light)", "어두움(밝기 배수)"),
    "bright": ("bright (factor of the light)", "밝음(밝기 배수)"),
    "noise": ("noisy (grey levels)", "노이즈(밝기 단계)"),
    "jpeg": ("compressed (JPEG quality)", "압축(JPEG 품질)"),
    "blur_noise": ("blurred, with noise over it (as blurred)", "흐림에 노이즈까지(흐림과 같은 단위)"),
    "shrink_jpeg": ("small, then compressed (as small)", "작은 뒤 압축(작음과 같은 단위)"),
    "cut": ("share outside the picture", "사진 밖에 있는 비율"),
    "eye_distance": ("pixels between the eyes", "눈 사이 픽셀"),
    "detail": ("fine detail (%)", "세부 묘사(%)"),
    "brightness": ("brightness", "밝기"),
    "overexposed": ("share of white pixels", "하얗게 날아간 비율"),
    "texture": ("evenness of detail", "세부 묘사의 고름"),
    "yaw": ("turn of the head (degrees)", "고개 돌림(도)"),
    "detection_score": ("detection score", "검출 점수"),
    "norm": ("length of the embedding", "임베딩 길이"),
}


def _rate(value: float) -> str:
    """Format an error rate: per cent down to 0.1 %, powers of ten below."""
    return f"{100 * value:.3g} %" if value == 0 or value >= 1e-3 else f"{value:.1e}"


_STYLES: dict[str, Callable[[Any], str]] = {
    "percent": lambda value: f"{100 * value:.2f} %",
    "rate": _rate,
    "score": lambda value: f"{value:.4f}",
    "count": lambda value: f"{value:,}",
    "number": lambda value: f"{value:.3g}",
    "one_in": lambda value: f"1 in {round(1 / value):,}",
    "one_of": lambda value: f"{round(1 / value):,}번에 1번",
    "ratio": lambda value: f"{value:.2f}",
    "digest": lambda value: str(value)[:12],
    "text": str,
}


def formatted(value: Any, style: str) -> str:
    """Format a value for the report; a dash for None.

    `style` is one of `percent`, `rate`, `score`, `count`, `number`, `one_in`, `one_of` (the same in Korean), `ratio`, `digest` and
    `text`.
    """
    return "–" if value is None else _STYLES[style](value)


def both(english: str, korean: str, **values: Any) -> Markup:
    """Return a text in both languages, of which the style sheet shows one; `{name}` is replaced by a value, escaped."""
    spans = ((code, Markup(text).format(**values)) for code, text in (("en", english), ("ko", korean)))
    return Markup("").join(Markup('<span lang="{}">{}</span>').format(code, text) for code, text in spans)


def lookup(metrics: Metrics, path: tuple[Any, ...]) -> Any:
    """Return the value at a path of attributes, keys and list positions."""
    value: Any = metrics
    for step in path:
        value = getattr(value, step) if isinstance(value, BaseModel) else value[step]
    return value


def render(
    metrics: Metrics,
    curves: Mapping[str, plots.Curves],
    calibration: Calibration | None,
    thumbnails: Mapping[str, bytes],
    language: str = "auto",
) -> str:
    """Return the page, in English and Korean.

    Args:
        metrics: All figures.
        curves: The scores of each set, for the plots.
        calibration: The threshold and its table, None without one.
        thumbnails: Encoded images by image id; may be empty.
        language: The language shown first, one of `LANGUAGES` (auto: the browser's, English without script).
    """

    def metric(*steps: Any, style: str = "text") -> Markup:
        path: tuple[Any, ...] = ()
        for step in steps:
            path += step if isinstance(step, tuple) else (step,)
        value = lookup(metrics, path)
        return Markup('<span data-metric="{}" data-value="{}" data-format="{}"{}>{}</span>').format(
            ".".join(str(step) for step in path),
            json.dumps(value, ensure_ascii=False),
            style,
            Markup(' title="{}"').format(value) if style == "digest" else "",
            formatted(value, style),
        )

    def title(column: str) -> Markup:
        return both(*TITLES.get(column, (escape(column), escape(column))))

    environment = Environment(
        loader=PackageLoader("eolgul.evaluate.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    threshold = None if calibration is None else calibration.threshold
    histograms = {name: Markup(plots.histogram(scores, threshold)) for name, scores in curves.items()}
    return environment.get_template("report.html.j2").render(
        metrics=metrics,
        m=metric,
        t=both,
        titled=title,
        breakdown={column: rows for column, rows in metrics.breakdown if rows},
        language=language,
        histograms=histograms,
        det=Markup(plots.det(curves, threshold)),
        curve=None if calibration is None else Markup(plots.calibration_curve(calibration)),
        first=next(iter(curves)),
        cameras=_cameras(metrics),
        losses=None if metrics.training is None else Markup(plots.training(metrics.training)),
        region=None if calibration is None or calibration.region is None else Markup(plots.region(calibration.region)),
        discard=Markup(plots.discard(metrics.quality)) if metrics.quality else None,
        pictures={name: data_uri(data) for name, data in thumbnails.items()},
    )


def _cameras(metrics: Metrics) -> Markup | None:
    rows = [row for row in metrics.breakdown.camera or [] if row.yaw is not None]
    return Markup(plots.cameras(rows)) if rows else None


def data_uri(data: bytes) -> Markup:
    """Return an encoded image for an `src`; empty for a format that browsers do not show."""
    mime = _MIME.get(probe(data).format)
    return escape("") if mime is None else Markup(f"data:{mime};base64,{base64.b64encode(data).decode()}")
