"""Read aligned faces from a FaceDataset."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.faces.template import SIZE
from eolgul.images.decode import decode
from eolgul.images.plain_jpeg import decode_plain


def read_face(dataset: FaceDataset, row: int, size: int = SIZE) -> NDArray[np.uint8]:
    """Decode one aligned face.

    Args:
        dataset: A dataset of aligned faces.
        row: Its row in the manifest.
        size: The side that the face must have, in pixels.

    Returns:
        uint8 RGB, size x size x 3.

    Raises:
        InputError: The image is broken or has another size; the message names it.
    """
    data = dataset.read(row)
    plain = decode_plain(data, size)
    if plain is not None:
        return plain
    try:
        face, _ = decode(data)
    except InputError as error:
        raise InputError(f"{_name(dataset, row)}: {error}", error.code) from error
    if face.shape != (size, size, 3):
        height, width = face.shape[:2]
        raise InputError(f"{_name(dataset, row)}: {width}x{height} pixels, expected an aligned {size}x{size} face")
    return face


def _name(dataset: FaceDataset, row: int) -> str:
    return f"{dataset.path}: image {dataset.values('image_id', [row])[0]} (row {row})"
