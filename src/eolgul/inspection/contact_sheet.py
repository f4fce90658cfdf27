"""Draw a contact sheet: up to sixty images of a collection, evenly spread over its identities, with their names."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eolgul.errors import InputError
from eolgul.files import refuse_disk
from eolgul.images.grid import grid
from eolgul.inspection.collection import Collection

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
LIMIT = 60
_COLUMNS = 10
_FACE, _MARGIN, _LINE = 112, 6, 16
_INK, _PAPER, _BROKEN = "#1e1e1e", "#fafafa", "#cdcdcd"
# Pillow's own font has no Hangul. K-FACE's identities are numbers, but folders often have people's names.
_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSansKR-Regular.otf", "NanumGothic.ttf")


def choose(identities: NDArray[np.int32], limit: int = LIMIT) -> list[int]:
    """Choose up to `limit` images evenly: one of every n-th identity, or, of few identities, as many of each as fit."""
    order = np.argsort(identities, kind="stable")
    starts = np.flatnonzero(np.diff(identities[order], prepend=-1) != 0)
    counts = np.diff(starts, append=len(order))
    if len(starts) >= limit:
        evenly = np.linspace(0, len(starts) - 1, limit).astype(np.int64)
        return [int(order[starts[identity]]) for identity in evenly]
    rounds = [
        (number, identity) for identity, count in enumerate(counts.tolist()) for number in range(min(count, limit))
    ]
    shown = sorted(sorted(rounds)[:limit], key=lambda item: (item[1], item[0]))
    return [int(order[starts[identity] + number]) for number, identity in shown]


def check_name(out: Path) -> None:
    """Raise InputError, before any work, if the name of a sheet does not end in .png."""
    if out.suffix.lower() != ".png":
        raise InputError(f"sheet {out}: expected a name that ends in .png")


def write_sheet(collection: Collection, out: Path, title: str, *, synthetic: bool = False) -> None:
    """Write the sheet of a collection as a PNG; an image that cannot be decoded is a grey field with its error's code.

    Raises:
        InputError: The collection has no images, or `out` cannot be written.
    """
    chosen = choose(collection.identities)
    if not chosen:
        raise InputError(f"{title}: no images for a contact sheet")
    font = _font()
    faces = grid([_cell(collection, image, font) for image in chosen], _COLUMNS, gap=_MARGIN, background=_PAPER)
    width = max(faces.width + _MARGIN, 480)
    sheet = Image.new("RGB", (width, 2 * _LINE + _MARGIN + faces.height), _PAPER)
    sheet.paste(faces, (_MARGIN, 2 * _LINE + _MARGIN))
    draw = ImageDraw.Draw(sheet)
    identities = len(np.unique(collection.identities))
    known = f"{identities:,} identities" if collection.identities_known else "identities not known"
    about = f"{len(collection):,} images, {known}{'   SYNTHETIC: nobody here exists' if synthetic else ''}"
    for line, text in enumerate((title, about)):
        draw.text((_MARGIN, 2 + line * _LINE), _fit(draw, font, text, width - 2 * _MARGIN), _INK, font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(buffer.getvalue())
    except OSError as error:
        refuse_disk(out, error)
        raise InputError(f"{out}: cannot be written ({error.strerror})") from error


def _cell(collection: Collection, image: int, font: Font) -> Image.Image:
    """One image of a collection with the name of its identity below."""
    cell = Image.new("RGB", (_FACE, _FACE + _LINE), _PAPER)
    draw = ImageDraw.Draw(cell)
    try:
        face = Image.fromarray(collection.pixels(image))
    except InputError as error:
        draw.rectangle((0, 0, _FACE - 1, _FACE - 1), _BROKEN)
        draw.text((4, _FACE // 2), error.code, _INK, font)
    else:
        face.thumbnail((_FACE, _FACE), Image.Resampling.LANCZOS)
        cell.paste(face, ((_FACE - face.width) // 2, (_FACE - face.height) // 2))
    name = collection.name(int(collection.identities[image]))
    draw.text((0, _FACE + 1), _fit(draw, font, name, _FACE), _INK, font)
    return cell


def _font() -> Font:
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, 11)
        except OSError:
            continue
    return ImageFont.load_default(11)


def _fit(draw: ImageDraw.ImageDraw, font: Font, text: str, width: int) -> str:
    """The text; its middle is left out if it is longer than `width` pixels."""
    text = text.encode("utf-8", "replace").decode().replace("\n", " ")[:300]
    for keep in range(len(text), 0, -1):
        short = text if keep == len(text) else f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}"
        if draw.textlength(short, font) <= width:
            return short
    return ""
