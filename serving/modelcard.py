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

_TRAINING = ("images", "identities", "best_epoch", "dataset")
_SET = ("name", "kind", "synthetic", "pairs", "accuracy", "auc", "auc_interval", "eer", "at_threshold")
_BELOW = 2  # the card's first heading stands below the page's own h1 and h2


@lru_cache(maxsize=2)
def training(package: Path, digest: str) -> dict[str, Any] | None:
    """What the model learned from: images, identities, dataset (kind and digest), best_epoch, epochs, head. None where
    the package does not say. `digest` is the package's: another model in the same folder is read anew."""
    value = _read(package / "training.json")
    if value is None:
        return None
    facts = {name: value.get(name) for name in _TRAINING}
    return facts | {"epochs": len(value.get("curve", ())), "head": value.get("recipe", {}).get("head")}


@lru_cache(maxsize=2)
def sets(package: Path, digest: str) -> list[dict[str, Any]]:
    """The figures of each set that the model was measured on, as in metrics.json (see `eolgul.evaluate.schema.Set`),
    without the folds. Empty for a model that was not evaluated."""
    value = _read(package / "evaluation" / "metrics.json")
    shown = []
    for one in (value or {}).get("sets", {}).values():
        figures = {name: one.get(name) for name in _SET}
        accuracy = figures["accuracy"] or {}
        shown.append(figures | {"accuracy": {name: accuracy.get(name) for name in ("mean", "std", "interval")}})
    return shown


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


def _read(file: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
