"""Greedy non-maximum suppression: of boxes that overlap, only the best stays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
_BLOCK = 256  # boxes whose overlaps are computed at once


def nms(boxes: Floats, scores: Floats, threshold: float, *, smaller: bool = False) -> Ints:
    """Select the boxes to keep.

    Args:
        boxes: N x 4, x1 y1 x2 y2.
        scores: N.
        threshold: A box that overlaps a better one by more than this is dropped.
        smaller: Divide the intersection by the smaller area, with pixel-inclusive sides (MTCNN's "Min", for a face found
            twice at different sizes), instead of by the union.

    Returns:
        Rows of `boxes`, best score first, int64.
    """
    extra = np.float32(1 if smaller else 0)
    # Scores often tie at exactly 1.0. facenet-pytorch takes the first of equals here and the last in its "Min" variant.
    order = np.argsort(scores, kind="stable")[::-1] if smaller else np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while order.size:
        overlapping = _overlapping(boxes[order[:_BLOCK]], boxes[order], threshold, extra)
        remaining = np.ones(len(order), bool)
        best = 0
        while best < len(overlapping):
            kept.append(int(order[best]))
            remaining[best] = False
            remaining &= ~overlapping[best]
            following = int(remaining[best:].argmax())
            if following == 0:  # the best box is the last one
                break
            best += following
        order = order[remaining]
    return np.array(kept, np.int64)


def _overlapping(some: Floats, others: Floats, threshold: float, extra: np.float32) -> NDArray[np.bool_]:
    """Whether each of `some` overlaps each of `others` by more than `threshold`: bool, len(some) x len(others)."""
    x1, y1, x2, y2 = others.T
    left, top, right, bottom = some.T[:, :, None]
    width = np.minimum(right, x2)
    width -= np.maximum(left, x1)
    width += extra
    height = np.minimum(bottom, y2)
    height -= np.maximum(top, y1)
    height += extra
    shared = np.maximum(width, 0, out=width)
    shared *= np.maximum(height, 0, out=height)
    areas, area = (x2 - x1 + extra) * (y2 - y1 + extra), (right - left + extra) * (bottom - top + extra)
    whole = np.minimum(area, areas) if extra else area + areas - shared
    # Divided, as facenet-pytorch does: a product would round the other way for boxes just at the threshold.
    with np.errstate(invalid="ignore", divide="ignore"):
        shared /= whole
    return np.asarray(shared > np.float32(threshold))
