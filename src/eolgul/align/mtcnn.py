"""The MTCNN cascade: image pyramid, candidates, non-maximum suppression, box regression, landmarks.

Source: Zhang et al. 2016 (arXiv:1604.02878); numerically it follows facenet-pytorch, with whose weights it runs, so
that the same settings find the same faces. Both the pyramid and the crops between the stages are area averages, which
one summed-area table per image answers with four look-ups a pixel, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from eolgul.align.networks import Networks, OnnxNetworks, TorchNetworks
from eolgul.modelpackage import DetectorSettings

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
_CELL, _STRIDE = 12, 2  # the P-Net sees 12x12 pixels and moves by two
_BATCH = 512  # crops a network call, so that memory does not grow with the number of candidates


@dataclass(frozen=True, slots=True)
class Faces:
    """The faces of one image, best score first, float32: boxes K x 4 (x1 y1 x2 y2, pixels), scores K, landmarks K x 5 x 2.

    Landmarks: left eye, right eye, nose, left and right mouth corner, as seen in the image.
    """

    boxes: Floats
    scores: Floats
    landmarks: Floats

    def __len__(self) -> int:
        return len(self.scores)


class Detector:
    """MTCNN with one backend and one setting. `detect` may be called from several threads."""

    def __init__(self, networks: Networks, settings: DetectorSettings) -> None:
        self._networks = networks
        self.settings = settings

    @classmethod
    def from_onnx(cls, folder: Path, settings: DetectorSettings, threads: int = 1) -> Self:
        return cls(OnnxNetworks(folder, threads=threads), settings)

    @classmethod
    def from_torch(cls, settings: DetectorSettings, device: str = "cpu") -> Self:
        return cls(TorchNetworks(device), settings)

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Faces]:
        """Find the faces of uint8 RGB images (H x W x 3, sizes may differ)."""
        tables = [SummedAreas(image) for image in images]
        boxes, owners = self._propose(tables)
        boxes, owners = self._refine(tables, boxes, owners)
        return self._output(tables, boxes, owners)

    def _propose(self, tables: Sequence[SummedAreas]) -> tuple[Floats, Ints]:
        """Stage 1: square candidate boxes (K x 4) over all images and the image each belongs to (K)."""
        found: dict[int, list[Floats]] = {number: [] for number in range(len(tables))}
        shapes: dict[tuple[int, int], list[int]] = {}
        for number, table in enumerate(tables):
            shapes.setdefault((table.height, table.width), []).append(number)
        for (height, width), numbers in shapes.items():
            for scale in pyramid_scales(height, width, self.settings):
                size = (int(height * scale + 1), int(width * scale + 1))
                level = np.concatenate([_scaled(tables[number].resized(size)) for number in numbers])
                regression, scores = self._networks.pnet(level)
                for row, number in enumerate(numbers):
                    candidates = _candidates(regression[row], scores[row], scale, self.settings.thresholds[0])
                    keep = nms(candidates[:, :4], candidates[:, 4], 0.5)
                    found[number].append(candidates[keep])
        boxes, owners = [], []
        for number, levels in found.items():
            if not levels:
                continue
            candidates = np.concatenate(levels)
            candidates = candidates[nms(candidates[:, :4], candidates[:, 4], 0.7)]
            sides = candidates[:, 2:4] - candidates[:, :2]
            corners = candidates[:, :4] + candidates[:, 5:9] * np.concatenate([sides, sides], axis=1)
            boxes.append(_squared(corners))
            owners.append(np.full(len(corners), number, np.int64))
        if not boxes:
            return np.empty((0, 4), np.float32), np.empty(0, np.int64)
        return np.concatenate(boxes), np.concatenate(owners)

    def _refine(self, tables: Sequence[SummedAreas], boxes: Floats, owners: Ints) -> tuple[Floats, Ints]:
        """Stage 2: the R-Net drops most candidates and moves the others."""
        crops, boxes, owners = _crops(tables, boxes, owners, 24)
        if len(boxes) == 0:
            return boxes, owners
        batches = [self._networks.rnet(crops[at : at + _BATCH]) for at in range(0, len(crops), _BATCH)]
        regression, scores = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        passed = scores > self.settings.thresholds[1]
        boxes, owners, scores, regression = boxes[passed], owners[passed], scores[passed], regression[passed]
        keep = _per_image(owners, lambda rows: nms(boxes[rows], scores[rows], 0.7))
        return _squared(_regressed(boxes[keep], regression[keep])), owners[keep]

    def _output(self, tables: Sequence[SummedAreas], boxes: Floats, owners: Ints) -> list[Faces]:
        """Stage 3: the O-Net decides, moves the boxes once more and gives the landmarks."""
        crops, boxes, owners = _crops(tables, boxes, owners, 48)
        if len(boxes) == 0:
            return [Faces(boxes, np.empty(0, np.float32), np.empty((0, 5, 2), np.float32)) for _ in tables]
        batches = [self._networks.onet(crops[at : at + _BATCH]) for at in range(0, len(crops), _BATCH)]
        regression, points, scores = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        passed = scores > self.settings.thresholds[2]
        boxes, owners, scores = boxes[passed], owners[passed], scores[passed]
        regression, points = regression[passed], points[passed]
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        landmarks = np.stack(
            [sides[:, :1] * points[:, :5] + boxes[:, :1] - 1, sides[:, 1:] * points[:, 5:] + boxes[:, 1:2] - 1], axis=2
        ).astype(np.float32)
        boxes = _regressed(boxes, regression)
        keep = _per_image(owners, lambda rows: nms(boxes[rows], scores[rows], 0.7, smaller=True))
        faces = []
        for number in range(len(tables)):
            rows = keep[owners[keep] == number]
            faces.append(Faces(boxes[rows], scores[rows].astype(np.float32), landmarks[rows]))
        return faces


class SummedAreas:
    """A summed-area table (Crow 1984) of a uint8 RGB image: the mean of any rectangle in four look-ups."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected uint8 H x W x 3, got {image.dtype} {image.shape}")
        self.height, self.width = image.shape[:2]
        # 32-bit sums hold 8.4 million white pixels; larger pictures need the wider table.
        depth = cv2.CV_32S if self.height * self.width < (1 << 31) // 255 else cv2.CV_64F
        self._sums = cv2.integral(np.ascontiguousarray(image), sdepth=depth)

    def resized(self, size: tuple[int, int]) -> Floats:
        """The whole image averaged to `size` (height, width): float32 1 x 3 x height x width, 0…255."""
        return self.crops(np.array([[0, 0, self.width, self.height]], np.int64), size)

    def crops(self, boxes: Ints, size: tuple[int, int]) -> Floats:
        """Rectangles K x 4 (x1 y1 x2 y2, end excluded, inside the image) averaged to `size`: float32 K x 3 x h x w.

        A target pixel averages source rows floor(i H / h) to ceil((i + 1) H / h), as torch's area interpolation does.
        """
        top, bottom = _edges(boxes[:, 1], boxes[:, 3], size[0])
        left, right = _edges(boxes[:, 0], boxes[:, 2], size[1])
        rows0, rows1, columns0, columns1 = top[:, :, None], bottom[:, :, None], left[:, None, :], right[:, None, :]
        sums = self._sums[rows1, columns1] - self._sums[rows0, columns1]
        sums -= self._sums[rows1, columns0]
        sums += self._sums[rows0, columns0]
        areas = ((rows1 - rows0) * (columns1 - columns0))[..., None]
        return np.ascontiguousarray((sums / areas).transpose(0, 3, 1, 2), np.float32)


def _edges(begin: Ints, end: Ints, count: int) -> tuple[Ints, Ints]:
    steps = np.arange(count, dtype=np.int64)
    length = (end - begin)[:, None]
    return begin[:, None] + steps * length // count, begin[:, None] - (-(steps + 1) * length // count)


def pyramid_scales(height: int, width: int, settings: DetectorSettings) -> list[float]:
    """The scales at which the smallest face (and each larger one) fills the P-Net's 12 pixels."""
    scale = _CELL / settings.min_face_size
    side = min(height, width) * scale
    scales = []
    while side >= _CELL:
        scales.append(scale)
        scale, side = scale * settings.factor, side * settings.factor
    return scales


def _scaled(pixels: Floats) -> Floats:
    return (pixels - np.float32(127.5)) * np.float32(1 / 128)


def _candidates(regression: Floats, scores: Floats, scale: float, threshold: float) -> Floats:
    """P-Net cells above the threshold as rows x1 y1 x2 y2 score dx1 dy1 dx2 dy2."""
    rows, columns = np.nonzero(scores >= threshold)
    cells = np.stack([columns, rows], axis=1).astype(np.float32) * _STRIDE
    begin = np.floor((cells + 1) / np.float32(scale))
    end = np.floor((cells + _CELL) / np.float32(scale))
    return np.concatenate(
        [begin, end, scores[rows, columns, None], regression[:, rows, columns].T], axis=1, dtype=np.float32
    )


def _crops(tables: Sequence[SummedAreas], boxes: Floats, owners: Ints, side: int) -> tuple[Floats, Floats, Ints]:
    """Network input for each box, cut at the image border; boxes wholly outside are dropped."""
    sizes = np.array([(table.width, table.height) for table in tables], np.int64)[owners]
    whole = np.trunc(boxes).astype(np.int64)
    begin = np.maximum(whole[:, :2], 1) - 1
    end = np.minimum(whole[:, 2:], sizes)
    inside = (end > begin).all(axis=1)
    boxes, owners = boxes[inside], owners[inside]
    rectangles = np.concatenate([begin, end], axis=1)[inside]
    crops = np.empty((len(boxes), 3, side, side), np.float32)
    for number in np.unique(owners):
        rows = owners == number
        crops[rows] = tables[number].crops(rectangles[rows], (side, side))
    return _scaled(crops), boxes, owners


def _regressed(boxes: Floats, regression: Floats) -> Floats:
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    return np.asarray(boxes + regression * np.concatenate([sides, sides], axis=1), np.float32)


def _squared(boxes: Floats) -> Floats:
    """Each box as a square around the same centre, as large as its longer side."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.max(axis=1, keepdims=True)
    begin = boxes[:, :2] + sides * np.float32(0.5) - longer * np.float32(0.5)
    return np.concatenate([begin, begin + longer], axis=1)


def _per_image(owners: Ints, keep: Callable[[Ints], Ints]) -> Ints:
    """Apply a suppression to each image's rows by themselves; kept rows of all images, image by image."""
    kept = []
    for number in np.unique(owners):
        rows = np.flatnonzero(owners == number)
        kept.append(rows[keep(rows)])
    return np.concatenate(kept) if kept else np.empty(0, np.int64)


def nms(boxes: Floats, scores: Floats, threshold: float, *, smaller: bool = False) -> Ints:
    """Greedy non-maximum suppression: rows to keep, best score first.

    A box goes when it overlaps a better one by more than `threshold`: intersection over union, or, with `smaller`,
    over the smaller area with pixel-inclusive sides (MTCNN's "Min", for a face found twice at different sizes).
    """
    extra = np.float32(1 if smaller else 0)
    areas = (boxes[:, 2] - boxes[:, 0] + extra) * (boxes[:, 3] - boxes[:, 1] + extra)
    # Sure faces often tie at exactly 1.0. facenet-pytorch takes the first of equals here and the last in its "Min" variant.
    order = np.argsort(scores, kind="stable")[::-1] if smaller else np.argsort(-scores, kind="stable")
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        corner = np.maximum(boxes[best, :2], boxes[rest, :2])
        opposite = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        sides = np.maximum(opposite - corner + extra, 0)
        shared = sides[:, 0] * sides[:, 1]
        whole = np.minimum(areas[best], areas[rest]) if smaller else areas[best] + areas[rest] - shared
        order = rest[shared <= threshold * whole]
    return np.array(kept, np.int64)
