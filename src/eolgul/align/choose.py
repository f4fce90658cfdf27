"""Which of the faces found is the one that counts."""

from __future__ import annotations

import numpy as np

from eolgul.align.mtcnn import Faces
from eolgul.errors import InputError

POLICIES = ("largest", "center", "single")


def choose(faces: Faces, which: str, size: tuple[int, int]) -> int | None:
    """The row of the face that `which` names in an image of `size` (width, height), None where there is no face.

    `largest` by box area; `center` nearest to the middle; `single` refuses several: InputError `several_faces`.
    """
    if which not in POLICIES:
        raise InputError(f"face policy {which!r}: expected one of {', '.join(POLICIES)}")
    if len(faces) == 0:
        return None
    if which == "single" and len(faces) > 1:
        raise InputError(f"{len(faces)} faces found, expected one", "several_faces")
    begin, end = faces.boxes[:, :2], faces.boxes[:, 2:]
    if which == "center":
        return int(np.argmin(np.hypot(*((begin + end) / 2 - np.array(size) / 2).T)))
    return int(np.argmax((end - begin).prod(axis=1)))
