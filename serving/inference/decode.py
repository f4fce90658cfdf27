"""Decode an untrusted image of a fixed set of formats, after checks of its structure and size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError
from eolgul.images import decode as decoder

FORMATS = ("JPEG", "PNG", "WEBP", "HEIF")
_WHOLE = 25_000_000  # pixels that are decoded as they are: the 24.5 megapixels of phones
_HALVED = ("JPEG", "HEIF")  # the formats of cameras; larger pictures of these are read at half their width and height
# A progressive JPEG has about ten. A scan of 30 bytes costs a pass over all pixels: 15 ms for 16 megapixels.
_MAX_SCANS = 64
# Segments of a JPEG or chunks of a PNG, plus one per kilobyte. Pillow walks them in Python: 2 million take 9 s.
_MAX_PIECES = 1000
_PNG = b"\x89PNG\r\n\x1a\n"
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # 0 marks a data byte, d0 to d7 occur within a scan
_TEM, _SOI, _EOI, _SOS = 0x01, 0xD8, 0xD9, 0xDA


class Picture(NamedTuple):
    """A decoded image.

    Attributes:
        pixels: Upright RGB, uint8, height x width x 3.
        width: Of the upright image, in pixels.
        height: Of the upright image, in pixels.
        scale: How many pixels of the image one of `pixels` stands for in each direction: 1, or 2 for a very large photo.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    scale: int


def decode(data: bytes, *, max_pixels: int) -> Picture:
    """Decode to upright RGB pixels.

    A JPEG or HEIF image of more than 25 megapixels is read at half its width and height.

    Raises:
        InputError: `not_an_image`, `unsupported_format` or `too_large`.
    """
    _check_pieces(data)
    info = decoder.probe(data, formats=FORMATS, max_pixels=max_pixels)
    scale = 2 if info.width * info.height > _WHOLE else 1
    if scale > 1 and info.format not in _HALVED:
        raise InputError(
            f"the image has {info.width}x{info.height} pixels, more than {_WHOLE} in all for a {info.format}",
            "too_large",
        )
    try:
        pixels = decoder.decode(data, formats=FORMATS, max_pixels=max_pixels, reduce=scale)[0]
    except (MemoryError, RecursionError) as error:
        raise InputError("the image cannot be decoded", "not_an_image") from error
    half = (-(-info.width // 2), -(-info.height // 2))
    if scale > 1 and pixels.shape[0] * pixels.shape[1] > half[0] * half[1]:  # only JPEG can be decoded so
        height, width = (-(-side // 2) for side in pixels.shape[:2])
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    # EXIF may turn the image by a quarter.
    turned = pixels.shape[1::-1] != (half if scale > 1 else (info.width, info.height))
    width, height = (info.height, info.width) if turned else (info.width, info.height)
    return Picture(pixels, width, height, scale)


def _check_pieces(data: bytes) -> None:
    """Raise InputError `too_large` if an image has more scans, segments or chunks than any real one, to waste time."""
    most, scans = _MAX_PIECES + len(data) // 1000, 0
    pieces = _segments(data) if data.startswith(b"\xff\xd8") else _chunks(data) if data.startswith(_PNG) else iter(())
    for number, marker in enumerate(pieces, 1):
        scans += marker == _SOS
        if scans > _MAX_SCANS:
            raise InputError(f"the JPEG has more than {_MAX_SCANS} scans", "too_large")
        if number > most:
            raise InputError(f"the image has more than {most} pieces (segments or chunks)", "too_large")


def _segments(data: bytes) -> Iterator[int]:
    """The markers of a JPEG up to its end (ITU-T T.81, annex B).

    As decoders do, it skips the content of segments (a thumbnail) and what follows the end (the video of a motion photo).
    """
    offset = 0
    while match := _MARKER.search(data, offset):
        marker, offset = match[1][0], match.end()
        if marker == _EOI:
            return
        yield marker
        if marker not in (_TEM, _SOI):  # the others state their length
            offset += int.from_bytes(data[offset : offset + 2], "big")


def _chunks(data: bytes) -> Iterator[int]:
    """A 0 per chunk of a PNG: length (4 bytes), type (4), data, checksum (4)."""
    offset = len(_PNG)
    while offset < len(data):
        yield 0
        offset += 12 + int.from_bytes(data[offset : offset + 4], "big")
