"""The fast decoder gives Pillow's pixels or nothing, whatever the file is."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eolgul.errors import InputError
from eolgul.images.decode import decode
from eolgul.images.plain_jpeg import decode_plain

SIDE = 40


def picture(seed: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def jpeg(image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [5, 60, 95, 100])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_pixels_are_pillows(subsampling: int, quality: int, mode: str) -> None:
    for seed, side in enumerate((1, 8, 39, 40, 112)):
        image = picture(seed, (side, side)).convert(mode)
        data = jpeg(image, quality=quality, subsampling=subsampling, comment=b"a comment")
        found = decode_plain(data, side)
        assert found is not None and found.dtype == np.uint8
        np.testing.assert_array_equal(found, decode(data)[0])


def test_what_is_not_plain_is_left_to_pillow() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    odd = {
        "orientation": jpeg(exif=exif),
        "four components": jpeg(picture().convert("CMYK")),
        "another size": jpeg(picture(size=(SIDE, SIDE + 1))),
        "several scans": jpeg(progressive=True),
        "restarts": jpeg(restart_marker_blocks=1),
        "a stray marker": jpeg(quality=95)[:-40] + b"\xff\xd9" + jpeg(quality=95)[-38:],
        "cut off": jpeg()[:-2],
        "cut in the header": jpeg()[:30] + b"\xff\xd9",
        "no JPEG": b"\x89PNG",
        "nothing": b"",
    }
    assert decode_plain(jpeg(), SIDE) is not None
    for what, data in odd.items():
        assert decode_plain(data, SIDE) is None, what


@given(
    seed=st.integers(0, 5),
    changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=4),
    cut=st.none() | st.integers(2, 1500),
)
def test_a_broken_file_gives_the_same_pixels_or_none(
    seed: int, changes: list[tuple[int, int]], cut: int | None
) -> None:
    """Where Pillow refuses a file, no pixels may come from here: the image would be trained on."""
    data = bytearray(jpeg(picture(seed), quality=90))
    for place, value in changes:
        data[place % len(data)] = value
    if cut is not None:  # a piece is missing before the end
        data[cut:-2] = b""
    found = decode_plain(bytes(data), SIDE)
    if found is None:
        return
    try:
        expected = decode(bytes(data))[0]
    except InputError as error:
        raise AssertionError(f"Pillow refuses it ({error})") from error
    np.testing.assert_array_equal(found, expected)
