"""The MTCNN cascade: image pyramid, candidates, non-maximum suppression, box regression, landmarks.

Source: Zhang et al. 2016 (arXiv:1604.02878); numerically it follows facenet-pytorch, with whose weights it runs, so
that the same settings find the same faces. Images are processed in groups of bounded size, equal sizes together, and the
P-Net runs in strips, so that memory does not grow with the number or the size of images.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from eolgul.faces.area_sampling import Picture, Tables
from eolgul.faces.networks import Networks, OnnxNetworks, TorchNetworks, exported_before
from eolgul.faces.suppression import nms
from eolgul.model.package import DetectorSettings

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
_CELL, _STRIDE = 12, 2  # the P-Net sees 12x12 pixels and moves by two
_GROUP_PIXELS = 1 << 20  # of the images that are processed together


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
    """MTCNN with one backend and fixed settings. `detect` may be called from several threads."""

    def __init__(self, networks: Networks, settings: DetectorSettings) -> None:
        self._networks = networks
        self.settings = settings
        self._memory = threading.local()

    @classmethod
    def from_onnx(cls, folder: Path, settings: DetectorSettings, threads: int = 1) -> Self:
        """Load pnet.onnx, rnet.onnx and onet.onnx from a folder; InputError if one is missing."""
        return cls(OnnxNetworks(folder, threads=threads), settings)

    @classmethod
    def from_torch(cls, settings: DetectorSettings, device: str = "cpu") -> Self:
        """Load facenet-pytorch's networks and weights; InputError if they or the device are missing."""
        return cls(TorchNetworks(device), settings)

    @classmethod
    def on_cpu(cls, settings: DetectorSettings) -> Self:
        """Load the networks that were exported before if there are some (EOLGUL_DETECTOR), otherwise facenet-pytorch's."""
        folder = exported_before()
        return cls.from_onnx(folder, settings) if folder else cls.from_torch(settings)

    def looking_for(self, min_face_size: int) -> Detector:
        """A detector with the same networks, and the same settings except for the smallest face."""
        return Detector(self._networks, replace(self.settings, min_face_size=min_face_size))

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Faces]:
        """Find the faces of uint8 RGB images (H x W x 3, sizes may differ); one `Faces` per image."""
        if not hasattr(self._memory, "tables"):
            self._memory.tables = Tables()
        tables: Tables = self._memory.tables
        faces: list[Faces] = []
        for group in _groups(images):
            tables.clear(sum(Picture.table_size(image) for image in group))
            pictures = [Picture(image, tables) for image in group]
            boxes, owners = self._propose(pictures)
            boxes, owners = self._refine(pictures, boxes, owners)
            faces += self._output(pictures, boxes, owners)
        return faces

    def likeness(self, image: NDArray[np.uint8], boxes: Floats) -> Floats:
        """The O-Net's probability that a face fills each of `boxes` (K x 4: x1 y1 x2 y2, pixels); 0 outside the image."""
        numbers = np.arange(len(boxes), dtype=np.int64)
        picture = Picture(image)
        crops, _, inside = _crops([picture] * len(boxes), _squared(boxes), numbers, 48)
        scores = np.zeros(len(boxes), np.float32)
        if len(inside):
            scores[inside] = self._networks.onet(crops)[2]
        return scores

    def _propose(self, pictures: Sequence[Picture]) -> tuple[Floats, Ints]:
        """Stage 1: square candidate boxes (K x 4) over all images and the image each belongs to (K)."""
        proposals: list[list[Floats]] = [[] for _ in pictures]
        shapes: dict[tuple[int, int], list[int]] = {}
        for number, picture in enumerate(pictures):
            shapes.setdefault((picture.height, picture.width), []).append(number)
        for (height, width), numbers in shapes.items():
            scales = pyramid_scales(height, width, self.settings)
            sizes = [(int(height * scale + 1), int(width * scale + 1)) for scale in scales]
            pyramid = [np.empty((len(numbers), 3, *size), np.float32) for size in sizes]
            for row, number in enumerate(numbers):
                pictures[number].levels([level[row] for level in pyramid])
            for scale, level in zip(scales, pyramid, strict=True):
                candidates, rows = self._candidates(level, scale)
                for row, number in enumerate(numbers):
                    mine = candidates[rows == row]
                    proposals[number].append(mine[nms(mine[:, :4], mine[:, 4], 0.5)])
        boxes, owners = [np.empty((0, 4), np.float32)], [np.empty(0, np.int64)]
        for number, levels in enumerate(proposals):
            if not levels:  # the image is too small for any face
                continue
            candidates = np.concatenate(levels)
            candidates = candidates[nms(candidates[:, :4], candidates[:, 4], 0.7)]
            sides = candidates[:, 2:4] - candidates[:, :2]
            corners = candidates[:, :4] + candidates[:, 5:9] * np.concatenate([sides, sides], axis=1)
            boxes.append(_squared(corners))
            owners.append(np.full(len(corners), number, np.int64))
        return np.concatenate(boxes), np.concatenate(owners)

    def _candidates(self, level: Floats, scale: float) -> tuple[Floats, Ints]:
        """P-Net cells above the threshold as rows x1 y1 x2 y2 score dx1 dy1 dx2 dy2, and the image of each.

        `level` is network input, N x 3 x h x w. Cell i sees rows 2 i to 2 i + 11, so a strip that begins at an even row and
        overlaps the next by ten gives the same cells as the whole level.
        """
        count, _, height, width = level.shape
        pixels = self._networks.portions.pnet
        rows = max(8, (pixels // width - 10) // 2)
        images = max(1, pixels // (width * min(height, 2 * rows + 10)))
        candidates, owners = [], []
        for first in range(0, count, images):
            for top in range(0, max(1, (height - 10) // 2), rows):
                strip = level[first : first + images, :, 2 * top : 2 * (top + rows) + 10]
                if strip.shape[2] < _CELL:  # one odd row, which is part of the strip before
                    continue
                regression, scores = self._networks.pnet(np.ascontiguousarray(strip))
                image, row, column = np.nonzero(scores >= self.settings.thresholds[0])
                cells = np.stack([column, row + top], axis=1).astype(np.float32) * _STRIDE
                begin = np.floor((cells + 1) / np.float32(scale))
                end = np.floor((cells + _CELL) / np.float32(scale))
                score, moves = scores[image, row, column, None], regression[image, :, row, column]
                candidates.append(np.concatenate([begin, end, score, moves], axis=1, dtype=np.float32))
                owners.append(image + first)
        return np.concatenate(candidates), np.concatenate(owners)

    def _refine(self, pictures: Sequence[Picture], boxes: Floats, owners: Ints) -> tuple[Floats, Ints]:
        """Stage 2: the R-Net drops most candidates and moves the others."""
        crops, boxes, owners = _crops(pictures, boxes, owners, 24)
        if len(boxes) == 0:
            return boxes, owners
        step = self._networks.portions.rnet
        batches = [self._networks.rnet(crops[start : start + step]) for start in range(0, len(crops), step)]
        regression, scores = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        passed = scores > self.settings.thresholds[1]
        boxes, owners, scores, regression = boxes[passed], owners[passed], scores[passed], regression[passed]
        keep = _per_image(owners, lambda rows: nms(boxes[rows], scores[rows], 0.7))
        return _squared(_regressed(boxes[keep], regression[keep])), owners[keep]

    def _output(self, pictures: Sequence[Picture], boxes: Floats, owners: Ints) -> list[Faces]:
        """Stage 3: the O-Net decides, moves the boxes once more and gives the landmarks."""
        crops, boxes, owners = _crops(pictures, boxes, owners, 48)
        if len(boxes) == 0:
            return [Faces(boxes, np.empty(0, np.float32), np.empty((0, 5, 2), np.float32)) for _ in pictures]
        step = self._networks.portions.onet
        batches = [self._networks.onet(crops[start : start + step]) for start in range(0, len(crops), step)]
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
        for number in range(len(pictures)):
            rows = keep[owners[keep] == number]
            faces.append(Faces(boxes[rows], scores[rows].astype(np.float32), landmarks[rows]))
        return faces


def _groups(images: Sequence[NDArray[np.uint8]]) -> list[list[NDArray[np.uint8]]]:
    """Groups of consecutive images with a bounded number of pixels; a larger image is a group by itself."""
    groups: list[list[NDArray[np.uint8]]] = []
    pixels = 0
    for image in images:
        size = image.shape[0] * image.shape[1]
        if not groups or pixels + size > _GROUP_PIXELS:
            groups.append([])
            pixels = 0
        groups[-1].append(image)
        pixels += size
    return groups


def pyramid_scales(height: int, width: int, settings: DetectorSettings) -> list[float]:
    """The scales at which the smallest face, and each larger one, fills the P-Net's 12 pixels."""
    scale = _CELL / settings.min_face_size
    side = min(height, width) * scale
    scales = []
    while side >= _CELL:
        scales.append(scale)
        scale, side = scale * settings.factor, side * settings.factor
    return scales


def _crops(pictures: Sequence[Picture], boxes: Floats, owners: Ints, side: int) -> tuple[Floats, Floats, Ints]:
    """Network input for each box, cut at the image border; boxes entirely outside are dropped."""
    sizes = np.array([(picture.width, picture.height) for picture in pictures], np.int64)[owners]
    whole = np.trunc(boxes).astype(np.int64)
    begin = np.maximum(whole[:, :2], 1) - 1
    end = np.minimum(whole[:, 2:], sizes)
    inside = (end > begin).all(axis=1)
    boxes, owners = boxes[inside], owners[inside]
    rectangles = np.concatenate([begin, end], axis=1)[inside]
    crops = np.empty((len(boxes), 3, side, side), np.float32)
    numbers, begins = np.unique(owners, return_index=True)  # owners ascend
    for number, first, last in zip(numbers, begins, np.append(begins, len(owners))[1:], strict=True):
        pictures[number].crops(rectangles[first:last], crops[first:last])
    return crops, boxes, owners


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
    """Apply a suppression to the rows of each image separately; returns the kept rows, image by image."""
    kept = []
    for number in np.unique(owners):
        rows = np.flatnonzero(owners == number)
        kept.append(rows[keep(rows)])
    return np.concatenate(kept) if kept else np.empty(0, np.int64)
