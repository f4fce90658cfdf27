"""Decode images: training, evaluation and serving share this decoder, so that all see the same pixels."""

from __future__ import annotations

import functools
import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from eolgul.content import describe_content
from eolgul.errors import InputError, Reason, one_line

# The formats of datasets. Serving has its own, shorter list: each decoder there is a target of strangers' data.
EXTENSIONS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "PPM": "pgm",
    "BMP": "bmp",
    "GIF": "gif",
    "TIFF": "tif",
    "JPEG2000": "jp2",
    "AVIF": "avif",
    "HEIF": "heic",
}
FORMATS = tuple(EXTENSIONS)
MAX_PIXELS = 50_000_000
Image.MAX_IMAGE_PIXELS = None  # the limit above comes first, and is an error instead of a warning
# Pillow warns about odd metadata, which does not matter here. Set globally: catch_warnings is not safe between threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_UNSUPPORTED = Reason.UNSUPPORTED_FORMAT
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
# How images begin, by Pillow's name of the format: the place in the file, and what stands there.
_MAGICS = (
    ("GIF", 0, b"GIF8"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("BMP", 0, b"BM"),
    ("JPEG2000", 0, b"\0\0\0\x0cjP  "),
    ("JPEG2000", 0, b"\xff\x4f\xff\x51"),
    ("JXL", 0, b"\xff\x0a"),
    ("JXL", 0, b"\0\0\0\x0cJXL "),
    ("PSD", 0, b"8BPS"),
    ("WEBP", 8, b"WEBP"),
    ("PNG", 0, b"\x89PNG"),
    ("JPEG", 0, b"\xff\xd8\xff"),
)


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
    return open_image(data, formats=formats, max_pixels=max_pixels)[1]


def decode(
    data: bytes, *, formats: tuple[str, ...] = FORMATS, max_pixels: int = MAX_PIXELS, reduce: int = 1
) -> tuple[NDArray[np.uint8], ImageInfo]:
    """Decode an image, turned upright as EXIF says, with transparency on white; of several images (GIF, TIFF) the first.

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
    image, info = open_image(data, formats=formats, max_pixels=max_pixels)
    try:
        if reduce > 1:
            image.draft(None, (info.width // reduce, info.height // reduce))
        image.load()
        pixels = np.asarray(_rgb(ImageOps.exif_transpose(image)))
    except Exception as error:  # Pillow's decoders raise many exceptions on broken data
        raise InputError(f"image data is broken or cut off ({one_line(error)})", Reason.NOT_AN_IMAGE) from error
    return pixels, info


def open_image(
    data: bytes, *, formats: tuple[str, ...] = FORMATS, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, ImageInfo]:
    """Open an image without decoding it, as `probe` does.

    Returns:
        Pillow's image, and the header.

    Raises:
        InputError: As `probe`.
    """
    kind = _iso_media(data)
    if kind == "HEIF" and kind in formats and not _knows_heif():
        raise InputError(
            "a HEIF image (HEIC), which needs the package pi-heif: pip install pi-heif", Reason.UNSUPPORTED_FORMAT
        )
    # The two share brands, and each one's plugin would try the other's files.
    plugins = tuple(name for name in formats if name not in ("AVIF", "HEIF") or name == kind)
    try:
        image = Image.open(io.BytesIO(data), formats=plugins)
    except UnidentifiedImageError as error:
        code = Reason.UNSUPPORTED_FORMAT if _is_other_format(data, formats) else Reason.NOT_AN_IMAGE
        what = describe_content(data)
        if what is not None and code is Reason.NOT_AN_IMAGE:
            raise InputError(f"the data is {what}, not an image that can be read", code) from error
        names = ", ".join(formats)
        raise InputError(f"the data is not an image of an accepted format ({names})", code) from error
    except Exception as error:
        raise InputError(f"the image header is broken ({one_line(error)})", Reason.NOT_AN_IMAGE) from error
    return image, _info(image, max_pixels)


def _iso_media(data: bytes) -> str | None:
    """AVIF or HEIF for the image formats in ISO's media container, by the brands of the `ftyp` box; None for others."""
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), len(data), 512)
    brands = {data[8:12], *(data[place : place + 4] for place in range(16, end - 3, 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else None


@functools.cache
def _knows_heif() -> bool:
    """Register the plugin that reads HEIF, once; false where its package is not installed."""
    try:
        import pi_heif  # here, so that serving does not load it
    except ImportError:
        return False
    pi_heif.register_heif_opener(thumbnails=False)
    return True


def _is_other_format(data: bytes, formats: tuple[str, ...]) -> bool:
    """Whether the data begins like an image of a format that is not among `formats`."""
    return any(data[place : place + len(magic)] == magic and name not in formats for name, place, magic in _MAGICS) or (
        data[4:8] == b"ftyp" and _iso_media(data) not in formats
    )


def _info(image: Image.Image, max_pixels: int) -> ImageInfo:
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(f"the image has {width}x{height} pixels, more than {max_pixels} in all", Reason.TOO_LARGE)
    # A phone's JPEG with a second image behind the first (a depth map, a gain map) opens as "MPO".
    kind = "JPEG" if image.format == "MPO" else image.format or ""
    if image.mode in ("F", "LAB", "HSV") or (image.mode == "I" and kind == "TIFF"):
        # Nothing says which numbers are black and white there.
        raise InputError(f"a {kind} image of mode {image.mode}, expected 8 or 16 bits of grey or colour", _UNSUPPORTED)
    return ImageInfo(kind, width, height)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":  # 16 bits per pixel: Pillow's convert would clip, not scale
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def encode_jpeg(face: NDArray[np.uint8]) -> bytes:
    """Encode uint8 RGB, height x width x 3, as JPEG of quality 95 without subsampling of colours."""
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def encode_png(face: NDArray[np.uint8]) -> bytes:
    """Encode uint8 RGB, height x width x 3, without loss; with light compression, since speed matters more than size."""
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
