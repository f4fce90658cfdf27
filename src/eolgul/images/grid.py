"""Arrange images in a grid, as contact sheets show them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image


def grid(cells: Sequence[Image.Image], columns: int, *, gap: int = 0, background: str = "black") -> Image.Image:
    """Arrange cells row by row; each has the room of the largest, with `gap` pixels to its right and below."""
    columns = min(columns, len(cells))
    width = max(cell.width for cell in cells) + gap
    height = max(cell.height for cell in cells) + gap
    sheet = Image.new("RGB", (columns * width, -(-len(cells) // columns) * height), background)
    for number, cell in enumerate(cells):
        sheet.paste(cell, (number % columns * width, number // columns * height))
    return sheet
