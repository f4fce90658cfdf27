"""Decoding of untrusted images: many scans and pieces are refused early, and pictures of real cameras are not."""

from __future__ import annotations

import base64
import io
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from eolgul.errors import InputError
from eolgul.serving.inference.decode import decode

# 96 x 64 pixels of one colour, written by pillow-heif 1.3 (nothing that is installed writes HEIC).
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAVZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAA"
    "AAAERAAAEAAQAAAAABegABAAAAAAAAACAAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA1mlwcnAA"
    "AAC3aXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkA"
    "AAAwAAAwAeoDCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAiQAAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABgAAAA"
    "QAAAABBwaXhpAAAAAAMICAgAAAAXaXBtYQAAAAAAAAABAAEEgQIDBAAAAChtZGF0AAAAHCgBrwngITl1X//ch///TB3IflAbnQcw8y6lqYA="
)


def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded(many_scans: bytes) -> None:
    with pytest.raises(InputError, match="64 scans") as caught:
        decode(many_scans, max_pixels=16_000_000)
    assert caught.value.code == "too_large"


@pytest.mark.parametrize(("width", "height"), [(5712, 4284), (4624, 3472), (8160, 6120), (6120, 8161)])
@pytest.mark.parametrize("turned", [1, 6])
def test_photos_as_phones_take_them(width: int, height: int, turned: int) -> None:
    """24.5 megapixels as they are, 50 at half their sides; sizes are those of the upright photo."""
    scene = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = turned
    buffer = io.BytesIO()
    scene.save(buffer, "JPEG", quality=60, exif=exif)
    picture = decode(buffer.getvalue(), max_pixels=50_000_000)
    upright = (width, height) if turned == 1 else (height, width)
    assert (picture.width, picture.height) == upright
    assert picture.scale == (2 if width * height > 25_000_000 else 1)
    assert picture.pixels.shape[1::-1] == tuple(-(-side // picture.scale) for side in upright)
    small = scene.resize((64, 64), Image.Resampling.BOX).rotate(0 if turned == 1 else -90)
    there = np.asarray(Image.fromarray(picture.pixels).resize((64, 64), Image.Resampling.BOX), np.int16)
    assert np.abs(there - np.asarray(small, np.int16)).mean() < 2


def test_what_is_too_large_is_said_with_its_limit() -> None:
    buffer = io.BytesIO()
    Image.new("L", (5100, 5000)).save(buffer, "PNG")
    with pytest.raises(InputError, match="5100x5000 pixels, more than 25000000 in all for a PNG") as caught:
        decode(buffer.getvalue(), max_pixels=50_000_000)
    assert caught.value.code == "too_large"
    buffer = io.BytesIO()
    Image.new("L", (7200, 7000)).save(buffer, "JPEG")
    with pytest.raises(InputError, match="more than 50000000"):
        decode(buffer.getvalue(), max_pixels=50_000_000)


def test_heic_of_a_phone() -> None:
    picture = decode(HEIC, max_pixels=50_000_000)
    assert (picture.width, picture.height, picture.scale) == (96, 64, 1)
    assert picture.pixels.reshape(-1, 3).mean(axis=0).round(-1).tolist() == [200, 100, 50]
    for length in (20, len(HEIC) // 2, len(HEIC) - 3):
        with pytest.raises(InputError) as caught:
            decode(HEIC[:length], max_pixels=50_000_000)
        assert caught.value.code in ("not_an_image", "unsupported_format")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_cut_into_splinters_is_refused_before_they_are_walked(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, kind)
    data = buffer.getvalue()
    head, piece = (
        (2, b"\xff\xfe\0\2")
        if kind == "JPEG"
        else (33, b"\0\0\0\3tEXta\0b" + zlib.crc32(b"tEXta\0b").to_bytes(4, "big"))
    )
    assert decode(data[:head] + piece * 500 + data[head:], max_pixels=10_000).pixels.shape == (48, 64, 3)
    start = time.perf_counter()
    with pytest.raises(InputError, match="pieces") as caught:
        decode(data[:head] + piece * (10_000_000 // len(piece)) + data[head:], max_pixels=10_000)
    assert caught.value.code == "too_large" and time.perf_counter() - start < 1


def _jpeg(**options: object) -> bytes:
    noise = np.random.default_rng(3).integers(0, 256, (300, 200, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_pictures_as_cameras_write_them_are_not_taken_for_such() -> None:
    film = b"\xff\xda\x00\x02" * 1000  # behind the picture's end, as a phone's motion photo has it
    thumbnail = b"\xff\xe1" + (4002).to_bytes(2, "big") + b"\xff\xda\x00\x02" * 1000  # inside a segment
    several = io.BytesIO()
    first, second = (Image.open(io.BytesIO(_jpeg(quality=quality))) for quality in (80, 30))
    first.save(several, "MPO", save_all=True, append_images=[second])
    for data in (
        _jpeg(),
        _jpeg(progressive=True, quality=95),
        _jpeg(restart_marker_rows=1),
        _jpeg() + film,
        _jpeg()[:2] + thumbnail + _jpeg()[2:],
        several.getvalue(),
    ):
        assert decode(data, max_pixels=100_000).pixels.shape == (300, 200, 3)
