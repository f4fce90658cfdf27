"""Decoding of untrusted images: many scans and pieces are refused early, and pictures of real cameras are not."""

from __future__ import annotations

import io
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from eolgul.errors import InputError
from eolgul.serving.inference.decode import decode


def test_a_jpeg_of_too_many_scans_is_refused_before_it_is_decoded(many_scans: bytes) -> None:
    with pytest.raises(InputError, match="64 scans") as caught:
        decode(many_scans, max_pixels=16_000_000)
    assert caught.value.code == "too_large"


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
    assert decode(data[:head] + piece * 500 + data[head:], max_pixels=10_000).shape == (48, 64, 3)
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
        assert decode(data, max_pixels=100_000).shape == (300, 200, 3)
