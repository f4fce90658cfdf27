"""The report: one self-contained HTML file, rendered from `metrics.json` and nothing else (pictures and curves aside).

Every number is printed by `metric`, which marks it with where in `metrics.json` it comes from (`data-metric`), its
full value (`data-value`) and how it was shortened (`data-format`), so that a test can hold the page against the file.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from eolgul.evaluate.report import plots
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
}


def _rate(value: float) -> str:
    """Error rates: per cent down to a tenth of one, powers of ten below."""
    return f"{100 * value:.3g} %" if value == 0 or value >= 1e-3 else f"{value:.1e}"


_STYLES: dict[str, Callable[[Any], str]] = {
    "percent": lambda value: f"{100 * value:.2f} %",
    "rate": _rate,
    "score": lambda value: f"{value:.4f}",
    "count": lambda value: f"{value:,}",
    "one_in": lambda value: f"1 in {round(1 / value):,}",
    "one_of": lambda value: f"{round(1 / value):,}번에 1번",
    "ratio": lambda value: f"{value:.2f}",
    "digest": lambda value: str(value)[:12],
    "text": str,
}


def formatted(value: Any, style: str) -> str:
    """How the report prints a value: `percent`, `rate`, `score`, `count`, `one_in`, `one_of` (the same in Korean), `ratio`,
    `digest` or `text`; a dash for None."""
    return "–" if value is None else _STYLES[style](value)


def both(english: str, korean: str, **values: Any) -> Markup:
    """A text of the page in both languages, of which the style sheet shows one; `{name}` stands for `values`, escaped."""
    spans = ((code, Markup(text).format(**values)) for code, text in (("en", english), ("ko", korean)))
    return Markup("").join(Markup('<span lang="{}">{}</span>').format(code, text) for code, text in spans)


def lookup(metrics: Mapping[str, Any], path: tuple[Any, ...]) -> Any:
    """The value at a path of keys and list positions."""
    value: Any = metrics
    for step in path:
        value = value[step]
    return value


def render(
    metrics: Mapping[str, Any],
    curves: Mapping[str, plots.Curves],
    calibration: Calibration | None,
    thumbnails: Mapping[str, bytes],
    language: str = "auto",
) -> str:
    """The page, in English and Korean. `curves` (by set) feed the plots; `thumbnails` (image id → encoded image) may be
    empty; `language` is shown first, one of `LANGUAGES` (auto: the browser's, English without script)."""

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

    def said(column: str) -> Markup:
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
        titled=said,
        language=language,
        histograms=histograms,
        det=Markup(plots.det(curves, threshold)),
        curve=None if calibration is None else Markup(plots.calibration_curve(calibration)),
        first=next(iter(curves)),
        cameras=_cameras(metrics),
        discard=Markup(plots.discard(metrics["quality"])) if metrics["quality"] else None,
        pictures={name: _data_uri(data) for name, data in thumbnails.items()},
    )


def _cameras(metrics: Mapping[str, Any]) -> Markup | None:
    rows = [row for row in metrics["breakdown"].get("camera", []) if "yaw" in row]
    return Markup(plots.cameras(rows)) if rows else None


def _data_uri(data: bytes) -> Markup:
    """An encoded image for an `src`; formats that browsers do not show are left out by an empty one."""
    mime = _MIME.get(probe(data).format)
    return escape("") if mime is None else Markup(f"data:{mime};base64,{base64.b64encode(data).decode()}")
