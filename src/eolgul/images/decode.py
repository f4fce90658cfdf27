"""Decode images: training, evaluation and serving share this decoder, so that all see the same pixels."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from eolgul.errors import InputError, Reason

EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "PPM": "pgm"}
FORMATS = tuple(EXTENSIONS)
MAX_PIXELS = 50_000_000
Image.MAX_IMAGE_PIXELS = None  # the limit above comes first, and is an error instead of a warning
# Pillow warns about odd metadata, which does not matter here. Set globally: catch_warnings is not safe between threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """The header of an image: format (a key of EXTENSIONS), width and height in pixels before EXIF rotation."""

    format: str
    width: int
    height: int


def probe(data: bytes, *, formats: tuple[str, ...] = FORMATS, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Read the header only.

    Raises:
        InputError: `not_an_image`, `unsupported_format` or `too_large`.
    """
    return _probe(_open(data, formats), max_pixels)


def decode(
    data: bytes, *, formats: tuple[str, ...] = FORMATS, max_pixels: int = MAX_PIXELS, reduce: int = 1
) -> tuple[NDArray[np.uint8], ImageInfo]:
    """Decode an image, turned upright as EXIF says, with transparency on white.

    Args:
        data: The encoded image.
        formats: Accepted formats, keys of EXTENSIONS.
        max_pixels: The largest accepted number of pixels.
        reduce: 1, 2, 4 or 8; the sides of a JPEG are divided by it and rounded up, which decodes only the low frequencies
            of its blocks. Other formats are decoded in full.

    Returns:
        The pixels, uint8 RGB, height x width x 3, and the header of the full image.

    Raises:
        InputError: `not_an_image`, `unsupported_format` or `too_large`.
    """
    image = _open(data, formats)
    info = _probe(image, max_pixels)
    try:
        if reduce > 1:
            image.draft(None, (info.width // reduce, info.height // reduce))
        image.load()
        pixels = np.asarray(_rgb(ImageOps.exif_transpose(image)))
    except Exception as error:  # Pillow's decoders raise many exceptions on broken data
        raise InputError(f"image data is broken or cut off ({error})", Reason.NOT_AN_IMAGE) from error
    return pixels, info


def _open(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        code = Reason.UNSUPPORTED_FORMAT if _is_other_format(data) else Reason.NOT_AN_IMAGE
        names = ", ".join(formats)
        raise InputError(f"the data is not an image of an accepted format ({names})", code) from error
    except Exception as error:
        raise InputError(f"the image header is broken ({error})", Reason.NOT_AN_IMAGE) from error


def _is_other_format(data: bytes) -> bool:
    """Whether the data begins like a format that is not accepted (GIF, TIFF, BMP, HEIF/AVIF)."""
    return data[:4] in (b"GIF8", b"II*\0", b"MM\0*") or data[:2] == b"BM" or data[4:8] == b"ftyp"


def _probe(image: Image.Image, max_pixels: int) -> ImageInfo:
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(f"the image has {width}x{height} pixels, more than {max_pixels} in all", Reason.TOO_LARGE)
    # A phone's JPEG with a second image behind the first (a depth map, a gain map) opens as "MPO".
    return ImageInfo("JPEG" if image.format == "MPO" else image.format or "", width, height)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":  # 16 bits per pixel: Pillow's convert would clip, not scale
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def encode_png(face: NDArray[np.uint8]) -> bytes:
    """Encode uint8 RGB, height x width x 3, without loss; with light compression, since speed matters more than size."""
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
