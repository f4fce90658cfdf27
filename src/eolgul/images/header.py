"""Read an image's format and size in pixels, and check that it is complete, without decoding it.

Sources: ITU-T T.81 (JPEG markers), the PNG specification (chunks), RFC 9649 (WebP's RIFF container), Netpbm's PGM/PPM.
JPEG and PNG are parsed here, because extraction reads millions of small ones; Pillow reads the headers of the others, and
`eolgul.images.ending` says whether what they announce is there.
"""

from __future__ import annotations

import struct

from eolgul.errors import InputError, Reason
from eolgul.images import ending
from eolgul.images.decode import MAX_PIXELS, ImageInfo, open_image

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_SIZE = struct.Struct(">II")
_JPEG_END = b"\xff\xd9"
# SOF0…SOF15 without DHT (C4), JPG (C8) and DAC (CC): the segments that state height and width.
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length


def read_header(data: bytes) -> ImageInfo:
    """Read the header of an image whose structure is complete.

    Args:
        data: The encoded image.

    Returns:
        Format, width and height before EXIF rotation.

    Raises:
        InputError: `truncated`, `undecodable`, `not_an_image`, `unsupported_format` or `too_large`.
    """
    if data.startswith(b"\xff\xd8\xff"):
        info = _jpeg(data)
    elif data.startswith(_PNG):
        info = _png(data)
    else:
        if ending.is_cut_early(data):
            raise _cut(data)
        image, info = open_image(data)
        if not ending.is_whole(data, image, info):
            raise _cut(data)
    if info.width * info.height > MAX_PIXELS:
        raise InputError(
            f"the image has {info.width}x{info.height} pixels, more than {MAX_PIXELS} in all", Reason.TOO_LARGE
        )
    return info


def _cut(data: bytes) -> InputError:
    return InputError(f"the image data ends after {len(data)} bytes, before its end", Reason.TRUNCATED)


def _jpeg(data: bytes) -> ImageInfo:
    position, size = 2, len(data)
    while position + 4 <= size:
        if data[position] != 0xFF:
            raise InputError(f"no JPEG marker at byte {position} of the image", Reason.UNDECODABLE)
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in _FRAMES:
            if position + 9 > size:
                break
            height, width = data[position + 5] << 8 | data[position + 6], data[position + 7] << 8 | data[position + 8]
            if not width or not height:
                raise InputError(f"the JPEG states a size of {width}x{height}", Reason.UNDECODABLE)
            if data.endswith(_JPEG_END) or _has_end(data, position):
                return ImageInfo("JPEG", width, height)
            break
        elif marker in _BARE:
            position += 2
        elif marker in (0xD9, 0xDA):
            raise InputError("the JPEG does not state its size before its data", Reason.UNDECODABLE)
        else:
            length = data[position + 2] << 8 | data[position + 3]
            if length < 2:
                raise InputError(
                    f"a JPEG segment of length {length} at byte {position} of the image", Reason.UNDECODABLE
                )
            position += 2 + length
    raise _cut(data)


def _has_end(data: bytes, position: int) -> bool:
    """Whether an end marker follows the scan data; anything behind it (padding, a phone's second image) is ignored."""
    size = len(data)
    while position + 4 <= size and data[position] == 0xFF:
        marker = data[position + 1]
        position += 2 + (data[position + 2] << 8 | data[position + 3])
        if marker == 0xDA:
            return data.find(_JPEG_END, position) >= 0  # in scan data FF is always followed by 00 or a restart marker
    return False


def _png(data: bytes) -> ImageInfo:
    if len(data) < 33:
        raise _cut(data)
    width, height = _PNG_SIZE.unpack_from(data, 16)
    if data[12:16] != b"IHDR" or not width or not height:
        raise InputError("the PNG does not begin with its size", Reason.UNDECODABLE)
    if data.rfind(b"IEND") < 33:
        raise _cut(data)
    return ImageInfo("PNG", width, height)
