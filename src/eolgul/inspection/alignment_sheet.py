"""A contact sheet of an alignment: what was found in each picture beside the face cut out; and one of the rejected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.images.decode import decode
from eolgul.inspection.contact_sheet import check_name

_COUNT, _COLUMNS = 40, 5
_CELL, _TEXT = (168, 112), 13
_COLOURS = {"detected": "#30e060", "annotated": "#40a0ff", "anchored": "#ff9020"}


def sheets(source: FaceDataset, aligned: FaceDataset, out: Path) -> list[Path]:
    """Write `out` (PNG) with evenly chosen kept pictures, and `<out>-rejected.png` where any were rejected here.

    Boxes and points are green where detected, blue where annotated, orange where anchored. Returns what was written.
    """
    check_name(out)
    places = {name: row for row, name in enumerate(source.column("image_id"))}
    kept = aligned.manifest.select(["image_id", "box", "landmarks", "landmark_source", "detection_score"]).to_pylist()
    chosen = _some(list(range(len(aligned))))
    cells = [_kept(source, places[kept[row]["image_id"]], kept[row], aligned.read(row)) for row in chosen]
    rejected = [row for row in aligned.rejected() if row["where"] in places]
    out.parent.mkdir(parents=True, exist_ok=True)
    _table(cells, sum(_CELL)).save(out)
    if not rejected:
        return [out]
    other = out.with_name(f"{out.stem}-rejected.png")
    _table([_rejected(source, places[row["where"]], row) for row in _some(rejected)], _CELL[0]).save(other)
    return [out, other]


def _some(rows: list[Any]) -> list[Any]:
    """At most `_COUNT` of the rows, evenly spread."""
    return [rows[at] for at in np.linspace(0, len(rows) - 1, min(_COUNT, len(rows))).round().astype(int)]


def _thumbnail(data: bytes) -> tuple[Image.Image, float]:
    """The picture within a cell, and by how much it was scaled; grey where it cannot be decoded."""
    try:
        picture = Image.fromarray(decode(data)[0])
    except InputError:
        return Image.new("RGB", _CELL, "#808080"), 1.0
    scale = min(_CELL[0] / picture.width, _CELL[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS), scale


def _kept(source: FaceDataset, place: int, row: dict[str, Any], face: bytes) -> Image.Image:
    picture, scale = _thumbnail(source.read(place))
    draw = ImageDraw.Draw(picture)
    colour = _COLOURS[row["landmark_source"]]
    draw.rectangle([value * scale for value in row["box"]], outline=colour)
    for x, y in np.array(row["landmarks"]).reshape(5, 2) * scale:
        draw.ellipse([x - 1, y - 1, x + 1, y + 1], fill=colour)
    cell = Image.new("RGB", (_CELL[0] + _CELL[1], _CELL[1] + _TEXT), "white")
    cell.paste(picture, (0, 0))
    cell.paste(Image.fromarray(decode(face)[0]), (_CELL[0], 0))
    label = f"{row['image_id'].rpartition('/')[2]}  {row['landmark_source']} {row['detection_score']:.2f}"
    ImageDraw.Draw(cell).text((2, _CELL[1]), label, fill="black")
    return cell


def _rejected(source: FaceDataset, place: int, row: dict[str, Any]) -> Image.Image:
    cell = Image.new("RGB", (_CELL[0], _CELL[1] + 2 * _TEXT), "white")
    cell.paste(_thumbnail(source.read(place))[0], (0, 0))
    draw = ImageDraw.Draw(cell)
    draw.text((2, _CELL[1]), row["where"].rpartition("/")[2], fill="black")
    draw.text((2, _CELL[1] + _TEXT), row["reason"], fill="#c02020")
    return cell


def _table(cells: list[Image.Image], width: int) -> Image.Image:
    """The cells row by row, with a gap between them."""
    height = max(cell.height for cell in cells) + 4
    columns = min(_COLUMNS, len(cells))
    table = Image.new("RGB", (columns * (width + 4), -(-len(cells) // columns) * height), "#d0d0d0")
    for number, cell in enumerate(cells):
        table.paste(cell, (number % columns * (width + 4), number // columns * height))
    return table
