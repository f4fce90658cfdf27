"""Area averages of a picture: the pyramid and the crops between MTCNN's stages are made of nothing else.

A target pixel averages source rows floor(i H / h) to ceil((i + 1) H / h), as torch's area interpolation does (OpenCV's
weighs the border pixels and differs). A summed-area table (Crow 1984) answers each with four look-ups, exactly: sums are
32-bit and wrap around, and the difference of wrapped sums is right as long as one target pixel averages less than 2^32.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
# A table takes 16 bytes a pixel: larger pictures are worked through in strips of so many pixels.
_STRIP = 1 << 20
_LOOK_UPS = 1 << 19  # four take 16 bytes each at a time
# Four channels, so that a look-up is one move of 16 bytes; NumPy's type of that size is this.
_CELL = np.complex128


class Picture:
    """A uint8 RGB image (H x W x 3) that is asked for averages."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected uint8 H x W x 3, got {image.dtype} {image.shape}")
        self.height, self.width = image.shape[:2]
        self._image = image
        self._table = _summed(image) if self.height * self.width <= _STRIP else None

    def levels(self, sizes: Sequence[tuple[int, int]]) -> list[Floats]:
        """The whole picture averaged to each of `sizes` (height, width): float32 3 x height x width, 0…255."""
        levels = [np.empty((3, *size), np.float32) for size in sizes]
        edges = [(_edges(self.height, size[0]), _edges(self.width, size[1])) for size in sizes]
        # A strip reaches far enough that each target row which begins in it ends in it.
        reach = max((int((bottom - top).max()) for (top, bottom), _ in edges), default=1)
        step = self.height if self._table is not None else max(1, _STRIP // max(1, self.width))
        for begin in range(0, self.height, step):
            end = min(self.height, begin + step + reach)
            table = self._table if self._table is not None else _summed(self._image[begin:end])
            for level, ((top, bottom), (left, right)) in zip(levels, edges, strict=True):
                first, last = np.searchsorted(top, (begin, begin + step))
                rows, down = top[first:last] - begin, bottom[first:last] - begin
                across = table[down] - table[rows]
                sums = np.take(across, right, axis=1) - np.take(across, left, axis=1)
                areas = (down - rows)[:, None] * (right - left)
                np.divide(sums[..., :3].transpose(2, 0, 1), areas, out=level[:, first:last], casting="unsafe")
        return levels

    def crops(self, boxes: Ints, side: int) -> Floats:
        """Rectangles K x 4 (x1 y1 x2 y2, end excluded, inside the picture) averaged: float32 K x 3 x side x side."""
        if self._table is None:
            crops = [Picture(self._image[y1:y2, x1:x2]).levels([(side, side)])[0] for x1, y1, x2, y2 in boxes.tolist()]
            return np.stack(crops) if crops else np.empty((0, 3, side, side), np.float32)
        out = np.empty((len(boxes), 3, side, side), np.float32)
        cells = self._table.reshape(-1, 4).view(_CELL).ravel()
        step = max(1, _LOOK_UPS // side**2)
        for begin in range(0, len(boxes), step):
            some = boxes[begin : begin + step]
            top, bottom = _edges(some[:, 3] - some[:, 1], side, some[:, 1])
            left, right = _edges(some[:, 2] - some[:, 0], side, some[:, 0])
            areas = (bottom - top)[:, :, None] * (right - left)[:, None, :]
            top, bottom = top * (self.width + 1), bottom * (self.width + 1)
            sums = _look_up(cells, bottom, right)
            sums -= _look_up(cells, top, right)
            sums -= _look_up(cells, bottom, left)
            sums += _look_up(cells, top, left)
            channels = sums[..., :3].transpose(0, 3, 1, 2)
            np.divide(channels, areas[:, None], out=out[begin : begin + step], casting="unsafe")
        return out


def _summed(image: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The table of sums above and left of each corner: int32 (H + 1) x (W + 1) x 4, the fourth channel unused."""
    return np.asarray(cv2.integral(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), sdepth=cv2.CV_32S))


def _look_up(cells: NDArray[np.complex128], rows: Ints, columns: Ints) -> NDArray[np.int32]:
    """Sums at rows (K x n, times the table's width) and columns (K x n): int32 K x n x n x 4."""
    found = np.take(cells, rows[:, :, None] + columns[:, None, :])
    return found.view(np.int32).reshape(*found.shape, 4)


def _edges(length: int | Ints, count: int, begin: int | Ints = 0) -> tuple[Ints, Ints]:
    """Where each of `count` target pixels begins and ends in a stretch of the source; a row a stretch."""
    steps = np.arange(count, dtype=np.int64)
    length, begin = np.asarray(length)[..., None], np.asarray(begin)[..., None]
    return begin + steps * length // count, begin - (-(steps + 1) * length // count)
