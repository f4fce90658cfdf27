"""Batches are a pure function of (seed, epoch, step)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from eolgul.dataset import FaceDataset
from eolgul.modelpackage import EmbeddingContract
from eolgul.train.data import TrainingData, augment
from eolgul.train.recipe import Recipe


def data(toy: Path, workers: int) -> TrainingData:
    return TrainingData(FaceDataset(toy), Recipe.load("demo", ["batch_size=10"]), EmbeddingContract(), workers=workers)


def test_any_position_can_be_reached_at_once_with_any_number_of_workers(toy: Path) -> None:
    whole = list(data(toy, 1).batches(epoch=3))
    part = list(data(toy, 3).batches(epoch=3, start=4))
    assert len(whole) == 7
    for (one, labels), (other, other_labels) in zip(whole[4:], part, strict=True):
        assert torch.equal(one, other) and torch.equal(labels, other_labels)


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order(toy: Path) -> None:
    recipe = Recipe.load("demo", ["batch_size=9", "flip=0.0", "photometric=0.0", "shift=0"])
    training = TrainingData(FaceDataset(toy), recipe, EmbeddingContract(), workers=1)
    orders = []
    for epoch in (0, 1):
        images = torch.cat([images for images, _ in training.batches(epoch)])
        assert len(images) == 72
        assert len({image.numpy().tobytes() for image in images}) == 72
        orders.append(images[:9].numpy().tobytes())
    assert orders[0] != orders[1]


def test_only_training_people_are_seen(toy: Path) -> None:
    dataset = FaceDataset(toy)
    identities = {dataset.column("identity")[row] for row in data(toy, 1).rows}
    assert identities == {f"toy.{name}" for name in ("red", "green", "blue", "white", "dark", "yellow")}


def test_augmentation_changes_pixels_but_not_shape_and_can_be_switched_off() -> None:
    face = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    off = Recipe.load("demo", ["flip=0.0", "photometric=0.0", "shift=0"])
    assert np.array_equal(augment(face, off, [1]), face)
    on = Recipe.load("demo")
    variants = {augment(face, on, [seed]).tobytes() for seed in range(20)}
    assert len(variants) == 20
    assert augment(face, on, [3]).shape == face.shape
    always = Recipe.load("demo", ["flip=1.0", "photometric=0.0", "shift=0"])
    assert np.array_equal(augment(face, always, [1]), face[:, ::-1])
