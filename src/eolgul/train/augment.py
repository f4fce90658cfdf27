"""Augment a training face: a pure function of the face, the recipe and a seed.

The mirror image is part of ArcFace's published recipe; crop, photometric changes and low resolution are part of AdaFace's
(arXiv:2204.00964, section 4).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from eolgul.train.recipe import Recipe

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_RESAMPLINGS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


def only_mirrors(recipe: Recipe) -> bool:
    """Whether mirror images are the only change, so that one random number per face decides everything."""
    others = (recipe.shift, recipe.photometric, recipe.saturation, recipe.crop, recipe.low_resolution)
    return not any(others) and 0 <= recipe.seed < 2**32


def augment(face: NDArray[np.uint8], recipe: Recipe, seed: list[int]) -> NDArray[np.uint8]:
    """Change a face at random as the recipe says; the same seed gives the same image.

    Args:
        face: uint8 RGB, H x W x 3.
        recipe: Which changes are made, how often and how strongly.
        seed: Seed of the random numbers.

    Returns:
        uint8 RGB of the same shape.
    """
    rng = np.random.default_rng(seed)
    if rng.random() < recipe.flip:
        face = face[:, ::-1]
    if recipe.shift:
        down, right = rng.integers(-recipe.shift, recipe.shift + 1, 2)
        padded = np.pad(face, ((recipe.shift, recipe.shift), (recipe.shift, recipe.shift), (0, 0)), mode="edge")
        top, left = recipe.shift + down, recipe.shift + right
        face = padded[top : top + face.shape[0], left : left + face.shape[1]]
    if recipe.photometric:
        contrast, brightness = rng.uniform(-recipe.photometric, recipe.photometric, 2)
        changed = (face.astype(np.float32) - 127.5) * (1 + contrast) + 127.5 + 255 * brightness
        face = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    if recipe.saturation:
        strength = 1 + rng.uniform(-recipe.saturation, recipe.saturation)
        grey = (face.astype(np.float32) @ _GREY)[..., None]
        face = np.clip(np.rint(grey + strength * (face - grey)), 0, 255).astype(np.uint8)
    if recipe.crop and rng.random() < recipe.crop:
        face = _crop(face, rng)
    if recipe.low_resolution and rng.random() < recipe.low_resolution:
        face = _low_resolution(face, rng, recipe.low_resolution_side)
    return face


def _crop(face: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Keep a window of 0.2 to 1 of the area, side ratio 3/4 to 4/3, where it is; the rest becomes black."""
    height, width = face.shape[:2]
    area, ratio = rng.uniform(0.2, 1.0), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    tall = min(height, max(1, round(height * np.sqrt(area / ratio))))
    wide = min(width, max(1, round(width * np.sqrt(area * ratio))))
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    window = np.zeros_like(face)
    window[top : top + tall, left : left + wide] = face[top : top + tall, left : left + wide]
    return window


def _low_resolution(face: NDArray[np.uint8], rng: np.random.Generator, smallest: int) -> NDArray[np.uint8]:
    """Reduce the face (at least `smallest` pixels per side) and enlarge it again, like one from a distant camera."""
    height, width = face.shape[:2]
    side = int(rng.integers(min(smallest, height), height + 1))
    down, up = rng.integers(0, len(_RESAMPLINGS), 2)
    small = cv2.resize(np.ascontiguousarray(face), (side, side), interpolation=_RESAMPLINGS[down])
    return np.asarray(cv2.resize(small, (width, height), interpolation=_RESAMPLINGS[up]), np.uint8)
