"""Look at a sample of the extracted images: do the faces lie on the template, and are red and blue in their places?"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.faces.template import SIZE, TEMPLATE
from eolgul.images.decode import decode

_logger = logging.getLogger("eolgul.extract")
SAMPLE = 64  # images, evenly spaced over the source, whose colours are looked at
FACES = 32  # images in which the detector looks for landmarks
# Pixels. The median of 32 aligned faces was at most 4.4, that of LFW's centre at the same scale at least 6.0, that of
# aligned faces made a fifth smaller, or turned by ten degrees, 5.3 and 5.5 (docs/data.md).
NEAR = 5.0
_BORDER = 28  # pixels of grey around a face for the detector, which expects some room
_FACE = 40  # the smallest face that it looks for, in pixels
_GREY = 3.0  # mean difference of red and blue below which an image says nothing
_COLOURED = 8  # the fewest images with colour that allow a word
_EXCHANGED, _AGREE = -0.15, 0.8  # the median of (red - blue) / brightness, and the share of images below zero


def look_at(sample: Sequence[bytes], source: Path, config: ExtractConfig, *, aligned: bool) -> dict[str, Any]:
    """Look at a sample of the images of a dataset; return what the card says about it.

    A warning is logged where the colours look exchanged, and where images of the size of aligned faces are not said to be.

    Args:
        sample: `SAMPLE` encoded images, evenly spaced over the dataset.
        source: What was extracted, for the messages.
        config: The options.
        aligned: Whether the source itself says that its faces lie on the template.

    Raises:
        InputError: The faces are said to be aligned, and are not.
    """
    images = _decoded(sample)
    seen = color_check(images)
    if seen["exchanged"]:
        cure = (
            "is color bgr right?" if config.color == "bgr" else "are red and blue exchanged? color bgr puts them right"
        )
        _logger.warning("%s: the faces look blue (%s): %s", source, f"{seen['red_over_blue']:+.2f}", cure)
    facts: dict[str, Any] = {"color_check": seen}
    if config.aligned:
        facts["aligned_check"] = _check_aligned(images[:: max(1, len(images) // FACES)][:FACES], source)
    elif not aligned and images and all(image.shape[:2] == (SIZE, SIZE) for image in images):
        _logger.warning(
            "%s: the images are %dx%d; faces that are aligned already need the option aligned, others eolgul align",
            source, SIZE, SIZE,
        )  # fmt: skip
    return facts


def color_check(images: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
    """Judge the order of the colour channels by skin, which is redder than it is blue.

    Args:
        images: uint8 RGB, height x width x 3, with a face in the middle.

    Returns:
        `images` with colour; `red_over_blue`, the median over them of (red - blue) / brightness in the middle (None without
        any); `exchanged`, whether that is clear, None where there are too few.
    """
    values = [value for image in images if (value := _red_over_blue(image)) is not None]
    median = round(float(np.median(values)), 3) if values else None
    exchanged: bool | None = None
    if median is not None and len(values) >= _COLOURED:
        exchanged = median < _EXCHANGED and float(np.mean(np.array(values) < 0)) >= _AGREE
    return {"images": len(values), "red_over_blue": median, "exchanged": exchanged}


def _red_over_blue(image: NDArray[np.uint8]) -> float | None:
    height, width = image.shape[:2]
    middle = image[height * 3 // 10 : height * 7 // 10 or 1, width * 3 // 10 : width * 7 // 10 or 1].astype(np.float32)
    difference = middle[..., 0] - middle[..., 2]
    if not difference.size or float(np.abs(difference).mean()) < _GREY:
        return None
    return float(difference.mean() / (middle.mean() + 1))


def _check_aligned(images: Sequence[NDArray[np.uint8]], source: Path) -> dict[str, Any]:
    """Compare the landmarks that the detector finds with the template; InputError where they are not near it."""
    distance = template_distance(images)
    if not distance <= NEAR:
        found = "no face was found" if np.isinf(distance) else f"their landmarks are {distance:.1f} pixels from it"
        raise InputError(
            f"{source}: aligned: the faces do not lie on the template ({found} in the median of {len(images)} images, at "
            f"most {NEAR:g} are expected); run eolgul align on them without this option"
        )
    return {"images": len(images), "median_distance": round(float(distance), 2)}


def template_distance(images: Sequence[NDArray[np.uint8]]) -> float:
    """The median over images (uint8 RGB, 112 x 112 x 3) of the mean distance, in pixels, of five landmarks to the template.

    An image without a face counts as infinitely far.

    Raises:
        InputError: The detector is not installed.
    """
    from eolgul.faces.mtcnn import Detector
    from eolgul.model.package import DetectorSettings

    detector = Detector.on_cpu(DetectorSettings(min_face_size=_FACE))
    edges = ((_BORDER, _BORDER), (_BORDER, _BORDER), (0, 0))
    found = detector.detect([np.pad(image, edges, constant_values=128) for image in images])
    distances = [
        min(
            (float(np.linalg.norm(points - _BORDER - TEMPLATE, axis=1).mean()) for points in faces.landmarks),
            default=np.inf,
        )
        for faces in found
    ]
    return float(np.sort(distances)[len(distances) // 2]) if distances else np.inf


def _decoded(images: Sequence[bytes]) -> list[NDArray[np.uint8]]:
    """The pixels of the images that can be decoded; large JPEGs at an eighth, since only their colours count."""
    pixels = []
    for data in images:
        try:
            pixels.append(decode(data, reduce=8 if len(data) > 1 << 18 else 1)[0])
        except InputError:  # without `verify` nobody has looked inside yet
            continue
    return pixels
