"""What people should know of the served model before they rely on it: its data, its figures, and its CARD.md as HTML.

All of it lies in the package, whose files were checked when it was opened; a package of an older version, or one that
was made elsewhere, may hold less. Read once a model.
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

_BELOW = 2  # the card's first heading stands below the page's own h1 and h2


class Training(BaseModel):
    """What a model learned from, and how long."""

    images: int
    identities: int
    epochs: int
    best_epoch: int | None
    head: str | None
    dataset: str | None


class Figures(BaseModel):
    """What a model scores on one set, as metrics.json has it but for its details (`eolgul.evaluation.schema.SetFigures`)."""

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
    """From training.json; None where the package does not say, or not in these terms. `digest` is the package's: another
    model in the same folder is read anew."""
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
    """From metrics.json, a set each; empty for a model that was not evaluated, or in other terms."""
    try:
        metrics = read_metrics(package / "evaluation")
    except InputError:
        return ()
    return tuple(
        Figures(
            **item.model_dump(include={"name", "kind", "synthetic", "pairs", "auc", "auc_interval", "eer"}),
            accuracy=item.accuracy.mean,
            accuracy_std=item.accuracy.std,
            accuracy_interval=item.accuracy.interval,
            at_threshold=item.at_threshold,
        )
        for item in metrics.sets.values()
    )


@lru_cache(maxsize=2)
def html(package: Path, digest: str) -> str | None:
    """CARD.md as an HTML fragment, None without one. The card is text of whoever made the model: HTML inside it is shown
    as text, addresses that run scripts are no links, and a picture, which would come from elsewhere, is a link."""
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
    """Wide tables scroll in a box that the keyboard reaches, so that a phone's page does not."""

    def table_open(self, tokens: list[Token], index: int, options: Any, env: Any) -> str:
        return '<div class="wide" tabindex="0"><table>\n'

    def table_close(self, tokens: list[Token], index: int, options: Any, env: Any) -> str:
        return "</table></div>\n"


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
