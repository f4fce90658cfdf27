"""What an image's structure says, against what Pillow finds when it opens and decodes the same bytes."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.pictures import HEIC

from eolgul.errors import InputError
from eolgul.images.decode import decode
from eolgul.images.header import read_header

KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("RGB", "JPEG", {}),
    "progressive": ("RGB", "JPEG", {"progressive": True}),
    "grey": ("L", "JPEG", {}),
    "cmyk": ("CMYK", "JPEG", {}),
    "restarts": ("RGB", "JPEG", {"restart_marker_blocks": 1}),
    "comment": ("RGB", "JPEG", {"comment": b"\xff\xd9 not the end \xff\xc0"}),
    "png": ("RGB", "PNG", {}),
    "palette": ("P", "PNG", {}),
    "sixteen": ("I;16", "PNG", {}),
    "webp": ("RGB", "WEBP", {}),
    "pgm": ("L", "PPM", {}),
    "ppm": ("RGB", "PPM", {}),
    "bmp": ("RGB", "BMP", {}),
    "bmp-palette": ("P", "BMP", {}),
    "gif": ("P", "GIF", {}),
    "tiff": ("RGB", "TIFF", {}),
    "tiff-lzw": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "tiff-jpeg": ("RGB", "TIFF", {"compression": "jpeg"}),
    "tiff-cmyk": ("CMYK", "TIFF", {}),
    "tiff-sixteen": ("I;16", "TIFF", {}),
    "jp2": ("RGB", "JPEG2000", {}),
    "j2k": ("RGB", "JPEG2000", {"no_jp2": True}),
    "avif": ("RGB", "AVIF", {}),
    "heic": ("RGB", "HEIF", {}),
}
# Bytes at an image's end that carry nothing: the name of a PNG's last chunk, the byte behind a GIF's images.
SPARED = {"PNG": 4, "GIF": 1}


def encoded(kind: str, size: tuple[int, int] = (37, 21)) -> bytes:
    mode, format, options = KINDS[kind]
    if format == "HEIF":  # nothing that is installed writes it
        return HEIC
    shape = (size[1], size[0]) if mode in ("L", "P", "I;16") else (size[1], size[0], len(mode))
    pixels = np.random.default_rng(3).integers(0, 256, shape, np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(pixels) if mode in ("L", "RGB", "I;16") else Image.frombytes(mode, size, pixels.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def bmp_of(width: int, height: int) -> bytes:
    """A BMP that states a size and holds a part of it."""
    data = bytearray(encoded("bmp"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def refused(data: bytes) -> str:
    with pytest.raises(InputError) as error:
        read_header(data)
    assert "\n" not in str(error.value)
    return error.value.code


@pytest.mark.parametrize("kind", KINDS)
def test_format_and_size_are_what_decoding_finds(kind: str) -> None:
    data = encoded(kind)
    assert read_header(data) == decode(data)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_noticed(kind: str) -> None:
    data = encoded(kind)
    for cut in range(1, len(data) - SPARED.get(KINDS[kind][1], 0)):
        reasons = ("truncated", "not_an_image", "undecodable", *(["unsupported_format"] if cut < 16 else []))
        assert refused(data[:cut]) in reasons, cut
    if KINDS[kind][1] == "JPEG":
        assert all(refused(data[:cut]) == "truncated" for cut in range(4, len(data)))


@pytest.mark.parametrize("behind", [b"\0", b"\n\n", b"\0" * 5000, encoded("jpeg"), b"<?xpacket end='w'?>"])
def test_what_lies_behind_a_jpegs_end_is_let_be(behind: bytes) -> None:
    data = encoded("jpeg")
    assert read_header(data + behind) == read_header(data)
    assert refused(data[:-2] + behind.replace(b"\xff\xd9", b"")) == "truncated"


def test_a_thumbnails_end_is_not_the_pictures() -> None:
    """An EXIF thumbnail is a JPEG within the JPEG: its end marker must not hide that the picture is cut off."""
    data, small = encoded("jpeg"), encoded("jpeg", (8, 8))
    segment = b"\xff\xe1" + (len(small) + 8).to_bytes(2, "big") + b"Exif\0\0" + small
    whole = data[:2] + segment + data[2:]
    assert read_header(whole) == read_header(data)
    assert refused(whole[:-2]) == "truncated"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "not_an_image"),
        (b"hello", "not_an_image"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\xff\xd8\xff\xd9" + bytes(10), "undecodable"),
        (b"\xff\xd8\xff\xda" + bytes(10), "undecodable"),
        (b"\xff\xd8\xff\xe0\0\0" + bytes(10), "undecodable"),
        (b"\xff\xd8\xff\xe0\0\4ab" + b"\0" * 10, "undecodable"),
        (b"\xff\xd8\xff\xc0\0\x11\x08\0\0\0\0" + bytes(10) + b"\xff\xd9", "undecodable"),
        (b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff" + bytes(10) + b"\xff\xd9", "too_large"),
        (b"\xff\xd8" + b"\xff" * 100, "truncated"),
        (b"GIF89a" + bytes(20), "not_an_image"),
        (b"8BPS" + bytes(30), "unsupported_format"),
        (b"\xff\x0a" + bytes(30), "unsupported_format"),
        (bmp_of(100_000, 100_000), "too_large"),
        (encoded("png").replace(b"IHDR", b"IHDX"), "undecodable"),
        (encoded("png")[:16] + b"\xff\xff\xff\xff" * 2 + encoded("png")[24:], "too_large"),
    ],
)
def test_hostile_headers(data: bytes, code: str) -> None:
    assert refused(data) == code


@given(data=st.data(), kind=st.sampled_from(sorted(KINDS)))
def test_damage_is_a_result_or_a_reason(data: st.DataObject, kind: str) -> None:
    whole = bytearray(encoded(kind))
    for _ in range(data.draw(st.integers(1, 4), "flips")):
        whole[data.draw(st.integers(0, min(len(whole) - 1, 700)), "where")] = data.draw(st.integers(0, 255), "value")
    try:
        info = read_header(bytes(whole))
    except InputError as error:
        assert error.code in ("truncated", "undecodable", "not_an_image", "unsupported_format", "too_large")
    else:
        assert info.width > 0 and info.height > 0


@pytest.mark.parametrize("format", ["GIF", "TIFF", "WEBP", "AVIF"])
def test_of_several_images_the_first_counts(format: str) -> None:
    first, second = Image.new("RGB", (32, 24), (250, 250, 250)), Image.new("RGB", (32, 24))
    buffer = io.BytesIO()
    first.save(buffer, format, save_all=True, append_images=[second])
    assert decode(buffer.getvalue())[0].min() > 240 and read_header(buffer.getvalue()).width == 32


def test_a_picture_of_16_bits_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    for format in ("TIFF", "PNG"):
        buffer = io.BytesIO()
        Image.fromarray(ramp).save(buffer, format)
        assert (decode(buffer.getvalue())[0][..., 0] == ramp >> 8).all()


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_without_a_white_are_refused(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new("L", (16, 16), 9).convert(mode).save(buffer, "TIFF")
    assert refused(buffer.getvalue()) == "unsupported_format"


def test_without_its_package_a_heic_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eolgul.images.decode._knows_heif", lambda: False)
    with pytest.raises(InputError, match="pip install pi-heif") as error:
        read_header(HEIC)
    assert error.value.code == "unsupported_format"
