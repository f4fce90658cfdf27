"""The one decoder: colours, orientation, transparency and depth by hand-made pictures; everything else is a sentence."""

from __future__ import annotations

import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.pictures import picture

from eolgul.errors import InputError
from eolgul.images.decode import EXTENSIONS, decode, encode_png, probe


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def first(data: bytes) -> list[int]:
    return [int(value) for value in decode(data)[0][0, 0]]


@pytest.mark.parametrize(
    ("format", "options"), [("JPEG", {"quality": 100}), ("PNG", {}), ("WEBP", {"lossless": True}), ("PPM", {})]
)
@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 120, 20)])
def test_colours_come_in_rgb_order(format: str, options: dict[str, Any], colour: tuple[int, int, int]) -> None:
    pixels, info = decode(encoded(Image.new("RGB", (6, 4), colour), format, **options))
    assert pixels.shape == (4, 6, 3) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert (info.format, info.width, info.height) == (format, 6, 4)
    np.testing.assert_allclose(pixels.reshape(-1, 3), [colour] * 24, atol=3 if format == "JPEG" else 0)
    assert format in EXTENSIONS


def test_cmyk() -> None:
    assert first(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))[0] > 220
    assert max(first(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG", quality=100))) < 35


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, more: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = png_chunk(b"IHDR", head) + more + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (0x00FF, 0), (0x8000, 128), (0xFFFF, 255), (0x1234, 0x12)])
def test_sixteen_bits_are_scaled_not_clipped(value: int, expected: int) -> None:
    two = struct.pack(">H", value)
    assert first(png(1, 1, 16, 0, b"\0" + two)) == [expected] * 3
    assert first(b"P5 1 1 65535\n" + two) == [expected] * 3
    assert first(png(1, 1, 16, 2, b"\0" + two + b"\0\0\xff\xff")) == [expected, 0, 255]


def test_a_ten_bit_pgm_is_scaled() -> None:
    assert first(b"P5 1 1 1023\n\x03\xff") == [255] * 3
    assert first(b"P5 1 1 1023\n\x02\x00")[0] in (127, 128)


def test_transparency_is_laid_on_white() -> None:
    assert first(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), "PNG")) == [255, 255, 255]
    assert first(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 255)), "PNG")) == [255, 0, 0]
    np.testing.assert_allclose(first(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 128)), "PNG")), 127, atol=1)
    assert first(encoded(Image.new("LA", (2, 2), (0, 0)), "PNG")) == [255, 255, 255]
    assert first(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), "WEBP", lossless=True, exact=True)) == [
        255,
        255,
        255,
    ]
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255] + [0] * 762)
    assert first(encoded(palette, "PNG")) == [0, 0, 255]
    assert first(encoded(palette, "PNG", transparency=1)) == [255, 255, 255]
    assert first(encoded(Image.new("RGB", (2, 2), (9, 8, 7)), "PNG", transparency=(9, 8, 7))) == [255, 255, 255]


# What a viewer shows for each EXIF orientation of a picture stored as  a b c / d e f.
UPRIGHT = {1: ["abc", "def"], 2: ["cba", "fed"], 3: ["fed", "cba"], 4: ["def", "abc"],
           5: ["ad", "be", "cf"], 6: ["da", "eb", "fc"], 7: ["fc", "eb", "da"], 8: ["cf", "be", "ad"]}  # fmt: skip


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(orientation: int, format: str) -> None:
    shades = {letter: 20 + 40 * number for number, letter in enumerate("abcdef")}
    stored = np.array([[shades[letter] for letter in row] for row in ("abc", "def")], np.uint8)
    image = Image.fromarray(np.kron(stored, np.ones((16, 16), np.uint8))).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, info = decode(encoded(image, format, exif=exif.tobytes(), quality=100))
    seen = pixels[8::16, 8::16, 0]
    expected = [[shades[letter] for letter in row] for row in UPRIGHT[orientation]]
    assert seen.shape == np.shape(expected)
    np.testing.assert_allclose(seen, expected, atol=4)
    assert (info.width, info.height) == (48, 32)  # the header's, before it is turned


def test_an_odd_orientation_changes_nothing() -> None:
    for value in (0, 9, 255):
        exif = Image.Exif()
        exif[0x0112] = value
        assert decode(encoded(Image.new("RGB", (6, 4)), "JPEG", exif=exif.tobytes()))[0].shape == (4, 6, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_lose_the_picture() -> None:
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0garbage"):
        assert decode(encoded(Image.new("RGB", (6, 4)), "JPEG", exif=exif))[0].shape == (4, 6, 3)


def test_the_first_frame_of_a_moving_picture() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for format in ("WEBP", "PNG"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], lossless=True, duration=50)
        assert first(data) == [255, 0, 0]


def test_a_phones_jpeg_with_two_pictures_is_a_jpeg() -> None:
    data = encoded(
        Image.new("RGB", (8, 8), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")]
    )
    assert probe(data).format == "JPEG"
    pixels, info = decode(data)
    assert pixels[0, 0, 0] > 250 and info.format == "JPEG"


@pytest.mark.parametrize("format", ["GIF", "TIFF", "BMP", "AVIF", "HEIF", "JPEG2000"])
def test_other_formats_are_refused_as_such(format: str) -> None:
    """As serving does, which takes three."""
    data = picture(1, format)
    assert decode(data)[1].format == format
    for act in (decode, probe):
        with pytest.raises(InputError) as caught:
            act(data, formats=("JPEG", "PNG", "WEBP"))
        assert caught.value.code == "unsupported_format"


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"hello", b"<svg/>", b"%PDF-1.4", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP"]
)
def test_no_image(data: bytes) -> None:
    with pytest.raises(InputError) as caught:
        decode(data)
    assert caught.value.code == "not_an_image"


def test_a_bomb_is_refused_by_its_header() -> None:
    bombs = [
        png(60_000, 60_000, 8, 2, b"\0" * 100),
        b"P6 100000 100000 255\n",
        b"P6 7072 7072 255\n",
    ]
    webp = bytearray(encoded(Image.new("RGB", (4, 4)), "WEBP", lossless=True))
    for data in bombs:
        for act in (decode, probe):
            started = time.monotonic()
            with pytest.raises(InputError, match=r"\d+x\d+ pixels") as caught:
                act(data)
            assert caught.value.code == "too_large" and time.monotonic() - started < 0.5
    with pytest.raises(InputError, match="4x4 pixels, more than 15"):
        decode(bytes(webp), max_pixels=15)
    assert decode(bytes(webp), max_pixels=16)[1].width == 4


def test_a_bomb_in_the_metadata_is_refused_or_ignored() -> None:
    squeezed = zlib.compress(b"a" * 80_000_000, 9)
    data = png(1, 1, 8, 2, b"\0abc", png_chunk(b"zTXt", b"note\0\0" + squeezed))
    try:
        assert decode(data)[0].shape == (1, 1, 3)
    except InputError as error:
        assert error.code == "not_an_image"


def test_only_the_wanted_formats() -> None:
    with pytest.raises(InputError, match="JPEG"):
        decode(encoded(Image.new("RGB", (4, 4)), "PNG"), formats=("JPEG",))


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8))
WHOLE = {
    "JPEG": encoded(PICTURE, "JPEG"),
    "PNG": encoded(PICTURE, "PNG"),
    "WEBP": encoded(PICTURE, "WEBP"),
    "PPM": encoded(PICTURE, "PPM"),
    "progressive": encoded(PICTURE, "JPEG", progressive=True),
}


@pytest.mark.parametrize("format", WHOLE)
def test_a_cut_off_image_is_refused_wherever_it_is_cut(format: str) -> None:
    data = WHOLE[format]
    for cut in range(0, len(data) * 9 // 10, 7):
        with pytest.raises(InputError) as caught:
            decode(data[:cut])
        assert caught.value.code in ("not_an_image", "too_large")


@given(data=st.data())
def test_damage_is_pixels_or_a_sentence(data: st.DataObject) -> None:
    whole = bytearray(WHOLE[data.draw(st.sampled_from(sorted(WHOLE)))])
    for _ in range(data.draw(st.integers(1, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    for act in (lambda: decode(bytes(whole), max_pixels=100_000), lambda: probe(bytes(whole))):
        try:
            act()
        except InputError as error:
            assert error.code in ("not_an_image", "unsupported_format", "too_large")


magic = st.sampled_from(
    [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8 ", b"P5 ", b"P6 2 2 255\n", b"GIF89a", b"BM"]
)


@given(head=magic, rest=st.binary(max_size=200))
def test_random_bytes_are_pixels_or_a_sentence(head: bytes, rest: bytes) -> None:
    try:
        decode(head + rest, max_pixels=100_000)
    except InputError as error:
        assert error.code in ("not_an_image", "unsupported_format", "too_large")


def test_png_round_trip() -> None:
    pixels = np.asarray(PICTURE)
    np.testing.assert_array_equal(decode(encode_png(pixels))[0], pixels)
