"""Batches for training: order, augmentation and pixels as a pure function of (seed, epoch, step)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.images import decode
from eolgul.modelpackage import EmbeddingContract
from eolgul.recognizer import network_input
from eolgul.train.recipe import Recipe

_AHEAD = 3  # batches prepared while the network works on one


class TrainingData:
    """The `train` split of an assembled FaceDataset, with labels dense over its own identities."""

    def __init__(self, dataset: FaceDataset, recipe: Recipe, contract: EmbeddingContract, *, workers: int) -> None:
        self.rows = dataset.rows("train")
        if len(self.rows) < recipe.batch_size:
            raise InputError(
                f"{dataset.path}: {len(self.rows)} training images, fewer than one batch of {recipe.batch_size}"
            )
        identities, labels = np.unique(dataset.numpy("label")[self.rows], return_inverse=True)
        self.identities = len(identities)
        if self.identities < 2:
            raise InputError(f"{dataset.path}: {self.identities} training identity, expected two or more")
        self._labels = labels.astype(np.int64)
        self._dataset, self._recipe, self._contract = dataset, recipe, contract
        self._workers = workers

    @property
    def steps(self) -> int:
        """Steps an epoch: the last, incomplete batch is left out (its images change with every epoch's order)."""
        return len(self.rows) // self._recipe.batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The epoch's batches from step `start` on: float32 N x 3 x 112 x 112 and int64 N, decoded ahead in threads."""
        size = self._recipe.batch_size
        order = np.random.default_rng([self._recipe.seed, epoch]).permutation(len(self.rows))
        with ThreadPoolExecutor(self._workers) as pool:
            waiting: list[Future[tuple[Tensor, Tensor]]] = []
            for step in range(start, self.steps):
                waiting.append(pool.submit(self._batch, order[step * size : (step + 1) * size], epoch))
                if len(waiting) > _AHEAD:
                    yield waiting.pop(0).result()
            for future in waiting:
                yield future.result()

    def _batch(self, positions: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor]:
        faces = np.stack(
            [
                augment(
                    read_face(self._dataset, int(self.rows[position])),
                    self._recipe,
                    [self._recipe.seed, epoch, int(position)],
                )
                for position in positions
            ]
        )
        return torch.from_numpy(network_input(faces, self._contract)), torch.from_numpy(self._labels[positions])


def read_face(dataset: FaceDataset, row: int) -> NDArray[np.uint8]:
    """One aligned face, uint8 RGB 112 x 112 x 3. InputError when it has another size."""
    face, _ = decode(dataset.read(row))
    if face.shape != (112, 112, 3):
        raise InputError(
            f"{dataset.path} row {row}: {face.shape[1]}x{face.shape[0]} pixels, expected an aligned 112x112 face"
        )
    return face


def augment(face: NDArray[np.uint8], recipe: Recipe, seed: list[int]) -> NDArray[np.uint8]:
    """Mirror, shift and change brightness and contrast at random; the same seed gives the same picture."""
    rng = np.random.default_rng(seed)
    if rng.random() < recipe.flip:
        face = face[:, ::-1]
    if recipe.shift:
        down, right = rng.integers(-recipe.shift, recipe.shift + 1, 2)
        padded = np.pad(face, ((recipe.shift, recipe.shift), (recipe.shift, recipe.shift), (0, 0)), mode="edge")
        top, left = recipe.shift + down, recipe.shift + right
        face = padded[top : top + face.shape[0], left : left + face.shape[1]]
    if recipe.photometric:
        contrast, brightness = rng.uniform(-recipe.photometric, recipe.photometric, 2)
        changed = (face.astype(np.float32) - 127.5) * (1 + contrast) + 127.5 + 255 * brightness
        face = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    return face
