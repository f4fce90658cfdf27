"""Area averages of an image, of which MTCNN's pyramid and the crops between its stages are made.

A target pixel averages source rows floor(i H / h) to ceil((i + 1) H / h), as torch's area interpolation does (OpenCV's
weights the border pixels and differs). A summed-area table (Crow 1984) gives each average with four look-ups, exactly:
sums are 32-bit and wrap around, and the difference of wrapped sums is right as long as the sum of one target pixel is
below 2^31. The result is network input: `(average - 127.5) / 128`.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
# A table takes 16 bytes per pixel: larger images are processed in strips of this many pixels.
STRIP = 1 << 20
# Cells computed at a time, so that intermediate values stay in the cache and in memory that is already allocated:
# new memory costs more than the sums.
_BLOCK = 1 << 16
_CHANNELS = 4  # one unused, so that a look-up moves 16 bytes at once, the size of this NumPy type:
_CELL = np.complex128


class Tables:
    """Memory for summed-area tables that the next images reuse; one per thread."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.int32)
        self._taken = 0

    def clear(self, pixels: int) -> None:
        """Reclaim all lent memory, and provide for images of `pixels` pixels in all."""
        self._taken = 0
        if pixels * _CHANNELS > len(self._memory):
            self._memory = np.empty(pixels * _CHANNELS, np.int32)

    def lend(self, height: int, width: int) -> NDArray[np.int32]:
        """An uninitialised table, int32 height x width x 4, valid until `clear`."""
        begin, self._taken = self._taken, self._taken + height * width * _CHANNELS
        return self._memory[begin : self._taken].reshape(height, width, _CHANNELS)


class Picture:
    """A uint8 RGB image (H x W x 3) that gives averages. `tables` lends it memory while it is in use."""

    def __init__(self, image: NDArray[np.uint8], tables: Tables | None = None) -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected uint8 H x W x 3, got {image.dtype} {image.shape}")
        self.height, self.width = image.shape[:2]
        self._image = image
        self._table = None
        if self.height * self.width <= STRIP:
            self._table = _summed(image, tables.lend(self.height + 1, self.width + 1) if tables else None)

    @staticmethod
    def table_size(image: NDArray[np.uint8]) -> int:
        """The number of cells that the table of this image needs."""
        height, width = image.shape[:2]
        return (height + 1) * (width + 1) if height * width <= STRIP else 0

    def levels(self, out: Sequence[Floats]) -> None:
        """Average the whole picture into each of `out` (float32 3 x height x width)."""
        edges = [(_edges(self.height, level.shape[1]), _edges(self.width, level.shape[2])) for level in out]
        # A strip reaches far enough that each target row which begins in it ends in it.
        reach = max((int((bottom - top).max()) for (top, bottom), _ in edges), default=1)
        step = self.height if self._table is not None else max(1, STRIP // max(1, self.width))
        block = max(1, _BLOCK // max(1, self.width))
        for begin in range(0, self.height, step):
            end = min(self.height, begin + step + reach)
            table = self._table if self._table is not None else _summed(self._image[begin:end])
            for level, ((top, bottom), (left, right)) in zip(out, edges, strict=True):
                first, last = np.searchsorted(top, (begin, begin + step))
                for start in range(first, last, block):
                    rows = slice(start, min(start + block, last))
                    across = table[bottom[rows] - begin]
                    across -= table[top[rows] - begin]
                    sums = across.take(right, axis=1)
                    sums -= across.take(left, axis=1)
                    areas = (bottom[rows] - top[rows])[:, None] * (right - left)
                    _averages(sums, areas, level[:, rows])

    def crops(self, boxes: Ints, out: Floats) -> None:
        """Average rectangles K x 4 (x1 y1 x2 y2, end excluded, inside the image) into `out`: K x 3 x side x side."""
        if self._table is None:
            for (x1, y1, x2, y2), crop in zip(boxes.tolist(), out, strict=True):
                Picture(self._image[y1:y2, x1:x2]).levels([crop])
            return
        side = out.shape[-1]
        cells = self._table.reshape(-1, _CHANNELS).view(_CELL).ravel()
        step = max(1, _BLOCK // side**2)
        for begin in range(0, len(boxes), step):
            batch = boxes[begin : begin + step]
            top, bottom = _edges(batch[:, 3] - batch[:, 1], side, batch[:, 1])
            left, right = _edges(batch[:, 2] - batch[:, 0], side, batch[:, 0])
            areas = (bottom - top)[:, :, None] * (right - left)[:, None, :]
            top, bottom = top * (self.width + 1), bottom * (self.width + 1)
            sums = _look_up(cells, bottom, right)
            sums -= _look_up(cells, top, right)
            sums -= _look_up(cells, bottom, left)
            sums += _look_up(cells, top, left)
            _averages(sums, areas, out[begin : begin + step].transpose(1, 0, 2, 3))


def _averages(sums: NDArray[np.int32], areas: Ints, out: Floats) -> None:
    """Write sums (… x 4) over areas (…) as network input into `out` (3 x …)."""
    values = sums.astype(np.float32)
    factors = (1 / 128 / areas).astype(np.float32)
    for channel in range(3):
        np.multiply(values[..., channel], factors, out=out[channel])
    out -= np.float32(127.5 / 128)


def _summed(image: NDArray[np.uint8], table: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
    """The table of sums above and left of each corner: int32 (H + 1) x (W + 1) x 4, the fourth channel unused."""
    return np.asarray(cv2.integral(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), table, sdepth=cv2.CV_32S))


def _look_up(cells: NDArray[np.complex128], rows: Ints, columns: Ints) -> NDArray[np.int32]:
    """Sums at rows (K x n, times the table's width) and columns (K x n): int32 K x n x n x 4."""
    sums = cells.take(rows[:, :, None] + columns[:, None, :])
    return sums.view(np.int32).reshape(*sums.shape, _CHANNELS)


def _edges(length: int | Ints, count: int, begin: int | Ints = 0) -> tuple[Ints, Ints]:
    """Where each of `count` target pixels begins and ends in a stretch of the source; one row per stretch."""
    steps = np.arange(count, dtype=np.int64)
    length, begin = np.asarray(length)[..., None], np.asarray(begin)[..., None]
    return begin + steps * length // count, begin - (-(steps + 1) * length // count)
