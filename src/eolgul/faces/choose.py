"""Choose the face that counts among those that are found."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError, Reason
from eolgul.faces.mtcnn import Faces
from eolgul.model.package import POLICIES

# Shares of the annotated points' extent: a detector is off by a few hundredths, a neighbouring face by one or more.
_FITS = 0.4


def choose(
    faces: Faces, which: str, size: tuple[int, int], annotation: NDArray[np.floating] | None = None
) -> int | None:
    """Choose a face by a policy.

    Args:
        faces: The faces of one image.
        which: `largest` by box area; `center`, the nearest to the middle; `annotated`, whose landmarks fit `annotation`, or
            the largest without an annotation; `single`, which refuses several faces.
        size: Width and height of the image in pixels.
        annotation: Annotated landmarks, 5 x 2, in pixels.

    Returns:
        The row of the face, None if there is no such face.

    Raises:
        InputError: `several_faces` under the policy `single`; an unknown policy.
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
