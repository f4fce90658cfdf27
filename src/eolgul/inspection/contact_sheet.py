"""A contact sheet: up to sixty faces of a collection on one picture, evenly spread over its identities, with their names."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eolgul.errors import InputError
from eolgul.files import refuse_disk
from eolgul.inspection.collection import Gallery

LIMIT = 60
_COLUMNS = 10
_FACE, _MARGIN, _LINE = 112, 6, 16
_INK, _PAPER, _BROKEN = (30, 30, 30), (250, 250, 250), (205, 205, 205)
# Pillow's own font has no Hangul; K-FACE's identities are numbers, but folders are often called by people's names.
_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSansKR-Regular.otf", "NanumGothic.ttf")


def choose(identities: NDArray[np.int32], limit: int = LIMIT) -> list[int]:
    """Up to `limit` images: one of every so-many-th identity, or, of few identities, as many of each as fit."""
    order = np.argsort(identities, kind="stable")
    starts = np.flatnonzero(np.diff(identities[order], prepend=-1) != 0)
    counts = np.diff(starts, append=len(order))
    if len(starts) >= limit:
        picked = np.linspace(0, len(starts) - 1, limit).astype(np.int64)
        return [int(order[starts[one]]) for one in picked]
    rounds = [(number, one) for one, count in enumerate(counts.tolist()) for number in range(min(count, limit))]
    places = sorted(sorted(rounds)[:limit], key=lambda place: (place[1], place[0]))
    return [int(order[starts[one] + number]) for number, one in places]


def check_name(out: Path) -> None:
    """InputError for a sheet that would be no PNG; for before the work."""
    if out.suffix.lower() != ".png":
        raise InputError(f"sheet {out}: expected a name that ends in .png")


def write_sheet(gallery: Gallery, out: Path, title: str, *, synthetic: bool = False) -> None:
    """Write the sheet of a collection as a PNG. InputError when it has no images or `out` cannot be written.

    An image that cannot be decoded is a grey field with its error's code on it.
    """
    chosen = choose(gallery.identities)
    if not chosen:
        raise InputError(f"{title}: no images for a contact sheet")
    rows = -(-len(chosen) // _COLUMNS)
    columns = min(len(chosen), _COLUMNS)
    width = max(columns * (_FACE + _MARGIN) + _MARGIN, 480)
    sheet = Image.new("RGB", (width, 2 * _LINE + _MARGIN + rows * (_FACE + _LINE + _MARGIN)), _PAPER)
    draw, font = ImageDraw.Draw(sheet), _font()
    known = f"{len(np.unique(gallery.identities)):,} identities" if gallery.identities_known else "identities not known"
    about = f"{len(gallery):,} images, {known}{'   SYNTHETIC: nobody here exists' if synthetic else ''}"
    for line, text in enumerate((title, about)):
        draw.text((_MARGIN, 2 + line * _LINE), _fit(draw, font, text, width - 2 * _MARGIN), _INK, font)
    for number, image in enumerate(chosen):
        row, column = divmod(number, _COLUMNS)
        x = _MARGIN + column * (_FACE + _MARGIN)
        y = 2 * _LINE + _MARGIN + row * (_FACE + _LINE + _MARGIN)
        try:
            face = Image.fromarray(gallery.pixels(image))
        except InputError as error:
            draw.rectangle((x, y, x + _FACE - 1, y + _FACE - 1), _BROKEN)
            draw.text((x + 4, y + _FACE // 2), error.code, _INK, font)
        else:
            face.thumbnail((_FACE, _FACE), Image.Resampling.LANCZOS)
            sheet.paste(face, (x + (_FACE - face.width) // 2, y + (_FACE - face.height) // 2))
        name = gallery.name(int(gallery.identities[image]))
        draw.text((x, y + _FACE + 1), _fit(draw, font, name, _FACE), _INK, font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(buffer.getvalue())
    except OSError as error:
        refuse_disk(out, error)
        raise InputError(f"{out}: cannot be written ({error.strerror})") from error


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, 11)
        except OSError:
            continue
    return ImageFont.load_default(11)


def _fit(draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str, width: int) -> str:
    """The text, its middle left out where it is longer than `width` pixels."""
    text = text.encode("utf-8", "replace").decode().replace("\n", " ")[:300]
    for keep in range(len(text), 0, -1):
        short = text if keep == len(text) else f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}"
        if draw.textlength(short, font) <= width:
            return short
    return ""
