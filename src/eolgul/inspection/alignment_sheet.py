"""Draw contact sheets of an alignment: the detection in each image beside the aligned face, and the rejected images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.images.decode import decode
from eolgul.images.grid import grid
from eolgul.inspection.contact_sheet import check_name

_COUNT, _COLUMNS = 40, 5
_CELL, _TEXT = (168, 112), 13
_COLOURS = {"detected": "#30e060", "annotated": "#40a0ff", "anchored": "#ff9020"}


def sheets(source: FaceDataset, aligned: FaceDataset, out: Path) -> list[Path]:
    """Write a sheet of evenly chosen aligned images, and `<out>-rejected.png` if the alignment has rejected images.

    Boxes and points are green if detected, blue if annotated, orange if anchored.

    Args:
        source: The dataset before the alignment.
        aligned: The dataset after it.
        out: The PNG to write.

    Returns:
        The files that are written.

    Raises:
        InputError: `out` does not end in .png.
    """
    check_name(out)
    rows = {name: row for row, name in enumerate(source.column("image_id"))}
    kept = aligned.table(["image_id", "box", "landmarks", "landmark_source", "detection_score"]).to_pylist()
    chosen = _sample(list(range(len(aligned))))
    cells = [_draw_kept(source, rows[kept[row]["image_id"]], kept[row], aligned.read(row)) for row in chosen]
    rejected = [row for row in aligned.rejected() if row["where"] in rows]
    out.parent.mkdir(parents=True, exist_ok=True)
    _table(cells).save(out)
    if not rejected:
        return [out]
    other = out.with_name(f"{out.stem}-rejected.png")
    _table([_draw_rejected(source, rows[row["where"]], row) for row in _sample(rejected)]).save(other)
    return [out, other]


def _table(cells: list[Image.Image]) -> Image.Image:
    return grid(cells, _COLUMNS, gap=4, background="#d0d0d0")


def _sample(rows: list[Any]) -> list[Any]:
    """At most `_COUNT` of the rows, evenly spread."""
    return [rows[index] for index in np.linspace(0, len(rows) - 1, min(_COUNT, len(rows))).round().astype(int)]


def _thumbnail(data: bytes) -> tuple[Image.Image, float]:
    """The image scaled to fit a cell, and the scale; grey if it cannot be decoded."""
    try:
        picture = Image.fromarray(decode(data)[0])
    except InputError:
        return Image.new("RGB", _CELL, "#808080"), 1.0
    scale = min(_CELL[0] / picture.width, _CELL[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS), scale


def _draw_kept(source: FaceDataset, original: int, row: dict[str, Any], face: bytes) -> Image.Image:
    picture, scale = _thumbnail(source.read(original))
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


def _draw_rejected(source: FaceDataset, original: int, row: dict[str, Any]) -> Image.Image:
    cell = Image.new("RGB", (_CELL[0], _CELL[1] + 2 * _TEXT), "white")
    cell.paste(_thumbnail(source.read(original))[0], (0, 0))
    draw = ImageDraw.Draw(cell)
    draw.text((2, _CELL[1]), row["where"].rpartition("/")[2], fill="black")
    draw.text((2, _CELL[1] + _TEXT), row["reason"], fill="#c02020")
    return cell
