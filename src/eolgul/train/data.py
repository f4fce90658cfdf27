"""Batches for training: order, augmentation and pixels as a pure function of (seed, epoch, step, rank)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.faces.aligned import read_face
from eolgul.model.package import EmbeddingContract
from eolgul.train.augment import augment, only_mirrors
from eolgul.train.distributed import World, processes_here
from eolgul.train.draws import first_draws
from eolgul.train.loader import STALL_SECONDS, Progress, check_shared_memory, share, watched
from eolgul.train.order import windowed
from eolgul.train.recipe import Recipe

_FACE_BYTES = 112 * 112 * 3
_TRIES = 100  # rows tried in search of a readable image; a hundred broken ones in a row mean a damaged dataset


@dataclass(frozen=True, slots=True)
class Batch:
    """This rank's part of a step.

    Attributes:
        faces: uint8 RGB, N x 112 x 112 x 3.
        labels: int64, N.
        rows: The manifest rows that are shown, int64, N.
        unreadable: {manifest row: reason} of images that cannot be read; others are shown in their place.
    """

    faces: Tensor
    labels: Tensor
    rows: Tensor
    unreadable: dict[int, str]


class TrainingData:
    """The `train` split of an assembled FaceDataset, with labels dense over its own identities.

    A step is `recipe.batch_size` images of the epoch's order, whatever the number of ranks; each rank takes its
    consecutive part of it. A run that continues with another number of ranks sees the same images in the same steps.

    Memory: 12 bytes per training row and what an open dataset holds; 8 more while an epoch lasts, for its order. Worker
    processes share it.
    """

    def __init__(
        self,
        dataset: FaceDataset,
        recipe: Recipe,
        *,
        workers: int,
        stall_seconds: float = STALL_SECONDS,
        world: World = World(),  # noqa: B008 - immutable
        pin: bool = False,
    ) -> None:
        dataset.locate()  # here, so that the workers share it
        self.rows = dataset.rows("train")
        if len(self.rows) < recipe.batch_size:
            raise InputError(
                f"{dataset.path}: {len(self.rows)} training images, fewer than one batch of {recipe.batch_size}"
            )
        labels = dataset.numpy("label")[self.rows]
        known = np.bincount(labels) > 0
        self.identities = int(known.sum())
        self.labels = (np.cumsum(known, dtype=np.int32) - 1)[labels]
        self._first = np.empty(self.identities, np.int64)  # the first row of each identity: the last that is written
        self._first[self.labels[::-1]] = self.rows[::-1]
        if self.identities < 2:
            raise InputError(f"{dataset.path}: {self.identities} training identity, expected two or more")
        if recipe.batch_size % (world.size * recipe.accumulation):
            raise InputError(
                f"batch_size {recipe.batch_size} cannot be cut into {world.size} processes x {recipe.accumulation} parts"
            )
        self._weights = _weights(dataset, self.rows, recipe.source_weights)
        self._dataset, self._recipe, self._world = dataset, recipe, world
        self._workers, self._stall_seconds, self._pin = workers, stall_seconds, pin
        check_shared_memory(
            recipe.batch_size // world.size * _FACE_BYTES, min(workers, self.steps), processes_here(world)
        )

    @property
    def names(self) -> list[str]:
        """The names of the identities, in the order of the labels."""
        return [str(name) for name in self._dataset.values("identity", self._first)]

    @property
    def steps(self) -> int:
        """Steps per epoch: the last, incomplete batch is left out (its images change with every epoch's order)."""
        return len(self.rows) // self._recipe.batch_size

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The epoch's order: as many positions in `rows` as there are rows, each once or by the weight of its source.

        It depends on the recipe and the epoch alone, so that a run goes on in the middle of it.
        """
        rng = np.random.default_rng([self._recipe.seed, epoch])
        if self._recipe.read_order == "windowed":
            positions = np.arange(len(self.rows)) if self._weights is None else np.sort(_weighted(self._weights, rng))
            return windowed(positions, self._recipe.read_window, rng)
        if self._weights is None:
            return rng.permutation(len(self.rows))
        return _weighted(self._weights, rng)

    def part(self, epoch: int, step: int, order: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """The positions that this rank shows in a step."""
        order = self.order(epoch) if order is None else order
        size = self._recipe.batch_size // self._world.size
        begin = step * self._recipe.batch_size + self._world.rank * size
        return order[begin : begin + size]

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The epoch's batches from step `start` on, prepared ahead by worker processes with their own file handles.

        Raises:
            InputError: Too many images in a row cannot be read, or the workers lose a batch (see `eolgul.train.loader`).
        """
        order = self.order(epoch)
        parts = [self.part(epoch, step, order) for step in range(start, self.steps)]
        ahead = self._windows(order, start) if self._recipe.read_order == "windowed" else {}
        workers = min(self._workers, len(parts))
        progress = Progress(workers)
        source = _Faces(self._dataset, self._recipe, self.rows, self.labels, epoch, parts, progress, ahead)
        items = watched(source, progress, workers=workers, stall_seconds=self._stall_seconds, pin=self._pin)
        for faces, labels, rows, unreadable in items:
            yield Batch(faces, labels, rows, unreadable)

    def _windows(self, order: NDArray[np.int64], start: int) -> dict[int, list[NDArray[np.int64]]]:
        """What to read ahead with which batch: with the first its window, and with the first of every window the next one."""
        size, window = self._recipe.batch_size, self._recipe.read_window
        ahead: dict[int, list[NDArray[np.int64]]] = {}
        last = -1
        for step in range(start, self.steps):
            wanted = step * size // window + 1
            for number in range(max(last + 1, wanted - 1), wanted + 1):
                positions = order[number * window : (number + 1) * window]
                if len(positions):
                    ahead.setdefault(step - start, []).append(positions)
            last = max(last, wanted)
        return ahead


class _Faces(TorchDataset[tuple[Tensor, Tensor, Tensor, dict[int, str]]]):
    """The dataset of a worker process: item i is the i-th batch."""

    def __init__(
        self,
        dataset: FaceDataset,
        recipe: Recipe,
        rows: NDArray[np.int64],
        labels: NDArray[np.int32],
        epoch: int,
        parts: list[NDArray[np.int64]],
        progress: Progress,
        ahead: Mapping[int, list[NDArray[np.int64]]],
    ) -> None:
        self._ahead = ahead
        self._dataset, self._recipe, self._rows, self._labels = dataset, recipe, rows, labels
        self._epoch, self._parts, self._progress = epoch, parts, progress

    def __len__(self) -> int:
        return len(self._parts)

    def start_worker(self, _: int) -> None:
        """Open the shards anew in a worker process, which must not share the file handles of others."""
        info: Any = torch.utils.data.get_worker_info()
        info.dataset._dataset = copy.copy(self._dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, dict[int, str]]:
        for window in self._ahead.get(index, ()):
            self._dataset.expect(self._rows[window])
        positions = self._parts[index].copy()
        self._dataset.read_ahead(self._rows[positions])
        faces = np.empty((len(positions), 112, 112, 3), np.uint8)
        unreadable: dict[int, str] = {}
        simple = only_mirrors(self._recipe)
        for place, position in enumerate(positions):
            face, positions[place] = self._readable(int(position), unreadable)
            if not simple:
                face = augment(face, self._recipe, [self._recipe.seed, self._epoch, int(positions[place])])
            faces[place] = face
            self._progress.count()
        if simple:  # as `augment` does, for the whole batch at once
            mirrored = first_draws(self._recipe.seed, self._epoch, positions) < self._recipe.flip
            faces[mirrored] = faces[mirrored, :, ::-1]
        labels = self._labels[positions].astype(np.int64)
        shown = [torch.from_numpy(values) for values in (faces, labels, self._rows[positions])]
        share(shown)
        return shown[0], shown[1], shown[2], unreadable

    def _readable(self, position: int, unreadable: dict[int, str]) -> tuple[NDArray[np.uint8], int]:
        """The face at a position, or the next one that can be read, with its position."""
        for _ in range(_TRIES):
            row = int(self._rows[position])
            try:
                return read_face(self._dataset, row), position
            except InputError as error:
                unreadable[row] = str(error)
                position = (position + 1) % len(self._rows)
            except OSError as error:
                raise InputError(f"{self._dataset.path} row {row}: {error.strerror}") from error
        raise InputError(
            f"{self._dataset.path}: {_TRIES} images in a row cannot be read, one of them: {next(iter(unreadable.values()))}"
        )


def count_unreadable(
    new: Mapping[int, str],
    known: dict[str, str],
    training: TrainingData,
    dataset: FaceDataset,
    most: float,
    report: Callable[[dict[str, Any]], None],
) -> None:
    """Report each broken image once, and add it to `known`.

    Raises:
        InputError: More than the share `most` of the training images are broken.
    """
    for row, why in new.items():
        image = dataset.values("image_id", [row])[0]
        if image not in known:
            known[image] = why
            report({"warning": f"{image} (row {row}) cannot be read and is left out: {why}"})
    if len(known) > most * len(training.rows):
        raise InputError(
            f"{dataset.path}: {len(known)} of {len(training.rows)} training images cannot be read so far, more than the share "
            f"max_unreadable={most:g}; one of them is {next(iter(known))}"
        )


def to_input(faces: Tensor, contract: EmbeddingContract) -> Tensor:
    """Turn faces into network input on their device, where a quarter of the bytes have to be copied.

    The result is bit-equal to that of `eolgul.model.recognizer.network_input`, which evaluation and serving use.

    Args:
        faces: uint8 RGB, N x H x W x 3.
        contract: Colour order and scaling.

    Returns:
        float32 N x 3 x H x W in channels-last order.
    """
    ordered = faces if contract.color == "RGB" else faces.flip(3)
    return ((ordered.float() - contract.mean) / contract.std).permute(0, 3, 1, 2)


def _weights(dataset: FaceDataset, rows: NDArray[np.int64], weights: Mapping[str, float]) -> NDArray[np.float64] | None:
    """The relative frequency of each row; None if all are shown equally often."""
    if not weights:
        return None
    names, codes = dataset.codes("source")
    codes = codes[rows]
    there = sorted(names[code] for code in np.unique(codes).tolist())
    unknown = sorted(set(weights) - set(there))
    if unknown:
        raise InputError(f"source_weights names {', '.join(unknown)}, expected some of the sources {', '.join(there)}")
    each = np.array([weights.get(source, 1.0) for source in there])
    if each.sum() <= 0:
        raise InputError("source_weights leaves no source with a weight above 0")
    place = np.array([there.index(name) if name in there else -1 for name in names])
    found: NDArray[np.float64] = each[place[codes]]
    return found


def _weighted(weights: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many positions as there are weights, each in proportion to its weight.

    Systematic sampling over a random order: a position whose expected count is x occurs floor(x) or ceil(x) times.
    """
    order = rng.permutation(len(weights))
    edges = np.cumsum(weights[order])
    marks = (np.arange(len(weights)) + rng.random()) * edges[-1] / len(weights)
    return rng.permutation(order[np.searchsorted(edges, marks, side="right").clip(0, len(weights) - 1)])
