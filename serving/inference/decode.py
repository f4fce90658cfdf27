"""Decode an untrusted image: a fixed set of formats, behind checks of its structure and size."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError
from eolgul.images import decode as decoder

FORMATS = ("JPEG", "PNG", "WEBP")
# A progressive JPEG has about ten. A scan may take 30 bytes, and costs a pass over all pixels: 15 ms for 16 megapixels.
_MAX_SCANS = 64
# Segments of a JPEG or chunks of a PNG, and one more per kilobyte. Pillow walks them in Python: 2 million took 9 s.
_MAX_PIECES = 1000
_PNG = b"\x89PNG\r\n\x1a\n"
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # 0 is a data byte, d0 to d7 are within a scan
_TEM, _SOI, _EOI, _SOS = 0x01, 0xD8, 0xD9, 0xDA


def decode(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Upright RGB pixels, uint8, height x width x 3. InputError `not_an_image`, `unsupported_format` or `too_large`."""
    _check_pieces(data)
    decoder.probe(data, formats=FORMATS, max_pixels=max_pixels)
    try:
        return decoder.decode(data, formats=FORMATS, max_pixels=max_pixels)[0]
    except (MemoryError, RecursionError) as error:
        raise InputError("the image cannot be decoded", "not_an_image") from error


def _check_pieces(data: bytes) -> None:
    """InputError `too_large` for an image that is cut into so many pieces that walking them is an attack."""
    most, scans = _MAX_PIECES + len(data) // 1000, 0
    pieces = _segments(data) if data.startswith(b"\xff\xd8") else _chunks(data) if data.startswith(_PNG) else iter(())
    for number, marker in enumerate(pieces, 1):
        scans += marker == _SOS
        if scans > _MAX_SCANS:
            raise InputError(f"the JPEG is written in more than {_MAX_SCANS} scans", "too_large")
        if number > most:
            raise InputError(f"the image is written in more than {most} pieces", "too_large")


def _segments(data: bytes) -> Iterator[int]:
    """The markers of a JPEG up to its end. What lies inside a segment (a thumbnail) or behind the end (a motion photo's
    film) is passed over, as decoders do (ITU-T T.81, annex B)."""
    place = 0
    while found := _MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        if marker == _EOI:
            return
        yield marker
        if marker not in (_TEM, _SOI):  # the others say their length
            place += int.from_bytes(data[place : place + 2], "big")


def _chunks(data: bytes) -> Iterator[int]:
    """A 0 for each chunk of a PNG: length (4 bytes), type, so many bytes, checksum (4)."""
    place = len(_PNG)
    while place < len(data):
        yield 0
        place += 12 + int.from_bytes(data[place : place + 4], "big")
