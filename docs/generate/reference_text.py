"""Markdown for the generated pages."""

from __future__ import annotations

import re


def paragraphs(text: str) -> str:
    """Join the lines of each paragraph of a docstring or help text."""
    return re.sub(r"(?<!\n)\n(?!\n)\s*", " ", text.strip()).replace("``", "`")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """The lines of a Markdown table."""

    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(_escape(cell).replace("\n", " ") for cell in cells) + " |"

    return [line(head), line(("---",) * len(head)), *map(line, rows)]


def _escape(cell: str) -> str:
    """Escape pipes, except in code, where Markdown takes them literally."""
    return "`".join(text if index % 2 else text.replace("|", "\\|") for index, text in enumerate(cell.split("`")))
