"""Which of the faces found is the one that counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError, Reason
from eolgul.faces.mtcnn import Faces

POLICIES = ("largest", "center", "annotated", "single")
# A detector is off by a few hundredths of the annotated points' extent, a neighbour's face by one or more.
_FITS = 0.4


def choose(
    faces: Faces, which: str, size: tuple[int, int], annotation: NDArray[np.floating] | None = None
) -> int | None:
    """The row of the face that `which` names in an image of `size` (width, height), None where there is no such face.

    `largest` by box area; `center` nearest to the middle; `annotated` the one whose landmarks fit `annotation` (5 x 2),
    the largest where there is none; `single` refuses several: InputError `several_faces`.
    """
    if which not in POLICIES:
        raise InputError(f"face policy {which!r}: expected one of {', '.join(POLICIES)}")
    if len(faces) == 0:
        return None
    if which == "single" and len(faces) > 1:
        raise InputError(f"{len(faces)} faces found, expected one", Reason.SEVERAL_FACES)
    begin, end = faces.boxes[:, :2], faces.boxes[:, 2:]
    if which == "center":
        return int(np.argmin(np.hypot(*((begin + end) / 2 - np.array(size) / 2).T)))
    if which == "annotated" and annotation is not None:
        distances = np.linalg.norm(faces.landmarks - annotation, axis=2).mean(axis=1)
        best = int(np.argmin(distances))
        return best if distances[best] <= _FITS * np.ptp(annotation, axis=0).max() else None
    return int(np.argmax((end - begin).prod(axis=1)))
