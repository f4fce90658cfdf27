"""Facts about the served model for its users: training data, figures, and CARD.md as HTML.

They come from the package, whose files are checked when it is opened. A package of an older version, or from elsewhere, may
lack some of them. They are read once per model.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from pydantic import BaseModel, ValidationError

from eolgul.errors import InputError
from eolgul.evaluation.bootstrap import Interval
from eolgul.evaluation.reader import read_metrics
from eolgul.evaluation.schema import AtThreshold

_BELOW = 2  # the page has h1 and h2 above the card's first heading


class Training(BaseModel):
    """The training data of a model, and the length of its training."""

    images: int
    identities: int
    epochs: int
    best_epoch: int | None
    head: str | None
    dataset: str | None


class Figures(BaseModel):
    """A summary of the figures of one set in metrics.json (`eolgul.evaluation.schema.SetFigures`)."""

    name: str
    kind: str
    synthetic: bool
    pairs: int
    accuracy: float
    accuracy_std: float
    accuracy_interval: Interval | None
    auc: float | None
    auc_interval: Interval | None
    eer: float | None
    at_threshold: AtThreshold | None


@lru_cache(maxsize=2)
def training(package: Path, digest: str) -> Training | None:
    """Read training.json; None if it is missing or has other fields.

    `digest` is the package's, so that another model in the same folder is read again.
    """
    value = _read(package / "training.json")
    try:
        return Training(
            images=value["images"],
            identities=value["identities"],
            epochs=len(value["curve"]),
            best_epoch=value.get("best_epoch"),
            head=value.get("recipe", {}).get("head"),
            dataset=value.get("dataset", {}).get("digest"),
        )
    except (KeyError, TypeError, AttributeError, ValidationError):
        return None


@lru_cache(maxsize=2)
def figures(package: Path, digest: str) -> tuple[Figures, ...]:
    """Read metrics.json, one entry per set; empty if it is missing or has other fields."""
    try:
        metrics = read_metrics(package / "evaluation")
    except InputError:
        return ()
    return tuple(
        Figures(
            **metrics_set.model_dump(include={"name", "kind", "synthetic", "pairs", "auc", "auc_interval", "eer"}),
            accuracy=metrics_set.accuracy.mean,
            accuracy_std=metrics_set.accuracy.std,
            accuracy_interval=metrics_set.accuracy.interval,
            at_threshold=metrics_set.at_threshold,
        )
        for metrics_set in metrics.sets.values()
    )


@lru_cache(maxsize=2)
def html(package: Path, digest: str) -> str | None:
    """CARD.md as an HTML fragment; None if there is none.

    The card is untrusted text: HTML in it is shown as text, URLs that run scripts do not become links, and an image, which
    would be loaded from another server, becomes a link.
    """
    file = package / "CARD.md"
    if not file.is_file():
        return None
    markdown = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table").disable("image")
    tokens = markdown.parse(file.read_text(encoding="utf-8", errors="replace"))
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + _BELOW)}"
    return str(markdown.renderer.render(tokens, markdown.options, {}))


class _Renderer(RendererHTML):
    """Puts tables into a box that scrolls and can be focused, so that the page of a phone does not scroll sideways."""

    def table_open(self, tokens: list[Token], index: int, options: Any, env: Any) -> str:
        """Begin a table and its box."""
        return '<div class="wide" tabindex="0"><table>\n'

    def table_close(self, tokens: list[Token], index: int, options: Any, env: Any) -> str:
        """End a table and its box."""
        return "</table></div>\n"


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
