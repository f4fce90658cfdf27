"""Tell whether an image of the rarer formats is complete, from what its structure states, without decoding it.

Sources: RFC 9649 (WebP), Netpbm's PGM and PPM, Microsoft's BITMAPINFOHEADER (BMP), GIF89a, TIFF 6.0, ITU-T T.800 (JPEG
2000) and ISO/IEC 14496-12 (the boxes of HEIF, AVIF and JP2).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Literal

from PIL import Image, TiffImagePlugin

from eolgul.images.decode import ImageInfo

# Binary PGM and PPM: magic, width, height, largest value, one white space; comments between them.
_PNM = re.compile(rb"P[56](?:(?:\s|#[^\n]*\n)+\d{1,9}){2}(?:\s|#[^\n]*\n)+(\d{1,9})\s")
_PNM_HEAD = 4096  # bytes within which it must end
_CODESTREAM_END = b"\xff\xd9"
_STRIPS, _TILES = (273, 279), (324, 325)  # TIFF's tags of offsets and byte counts
_TIFF_ENTRY = 12  # bytes
_TIFF_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
}  # bytes of a value, by its type
_GIF_EXTENSION, _GIF_IMAGE = 0x21, 0x2C


def is_cut_early(data: bytes) -> bool:
    """Whether a TIFF ends before its directory does or the values that it points to: Pillow would skip them."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return False
    order: Literal["<", ">"] = "<" if data[:1] == b"I" else ">"
    try:
        (place,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, place)
        for entry in range(count):
            _, kind, values, where = struct.unpack_from(f"{order}HHII", data, place + 2 + _TIFF_ENTRY * entry)
            size = values * _TIFF_SIZES.get(kind, 0)
            if size > 4 and where + size > len(data):
                return True
    except struct.error:
        return True
    return False


def is_whole(data: bytes, image: Image.Image, info: ImageInfo) -> bool:
    """Whether everything that the structure of an image announces is there; of several images the first counts.

    What is compressed is not looked at: a run of zeros in place of data passes, and only decoding finds it. So does the
    end of a HEIF, AVIF or JP2 file whose last box has no length ("to the end of the file"), and a compressed BMP's.

    Args:
        data: The encoded image.
        image: The same, opened by Pillow.
        info: Its header.
    """
    match info.format:
        case "WEBP":
            return len(data) >= 8 + int.from_bytes(data[4:8], "little")
        case "PPM":
            return _pnm(data, info)
        case "BMP":
            return _bmp(data, info)
        case "GIF":
            return _gif(data)
        case "TIFF":
            return _tiff(data, image)
        case "JPEG2000":
            return _jpeg2000(data)
        case "AVIF" | "HEIF":
            boxes = list(_boxes(data))
            return boxes[-1][2] <= len(data) and any(kind in (b"mdat", b"moof") for kind, _, _ in boxes)
    return True


def _pnm(data: bytes, info: ImageInfo) -> bool:
    if data[:2] not in (b"P5", b"P6"):
        return True
    head = _PNM.match(data, 0, _PNM_HEAD)
    samples = info.width * info.height * (3 if data[1:2] == b"6" else 1)
    return head is not None and len(data) >= head.end() + samples * (2 if int(head[1]) > 255 else 1)


def _bmp(data: bytes, info: ImageInfo) -> bool:
    offset, head = struct.unpack_from("<II", data, 10)
    bits = int(struct.unpack_from("<H", data, 24 if head == 12 else 28)[0])
    compression = 0 if head == 12 else struct.unpack_from("<I", data, 30)[0]
    if compression not in (0, 3):  # run lengths: how long they are is known at their end
        return len(data) > int(offset)
    return len(data) >= int(offset) + (info.width * bits + 31) // 32 * 4 * info.height


def _gif(data: bytes) -> bool:
    """Whether the blocks of the first image end with the block of length 0."""

    def colours(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    try:
        place = 13 + colours(data[10])
        while True:
            kind = data[place]
            if kind == _GIF_IMAGE:
                place += 11 + colours(data[place + 9])
            elif kind == _GIF_EXTENSION:
                place += 2
            else:
                return False
            while data[place]:
                place += 1 + data[place]
            place += 1
            if kind == _GIF_IMAGE:
                return True
    except IndexError:
        return False


def _tiff(data: bytes, image: Image.Image) -> bool:
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    for offsets, counts in (_STRIPS, _TILES):
        ends = (
            begin + size
            for begin, size in zip(image.tag_v2.get(offsets, ()), image.tag_v2.get(counts, ()), strict=False)
        )
        if max(ends, default=0) > len(data):
            return False
    return True


def _jpeg2000(data: bytes) -> bool:
    if not data.startswith(b"\xff\x4f"):
        boxes = list(_boxes(data))
        end = next((end for kind, _, end in boxes if kind == b"jp2c"), 0)
        return 0 < end <= len(data) and data[:end].rstrip(b"\0").endswith(_CODESTREAM_END)
    return data.rstrip(b"\0").endswith(_CODESTREAM_END)


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, the begin and the stated end of each outermost box, the last of which may lie behind the data."""
    place = 0
    while place < len(data):
        size, head = int.from_bytes(data[place : place + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        end = len(data) if size == 0 else place + max(size, head)
        yield data[place + 4 : place + 8], place, end
        place = end
