"""Batches are a pure function of (seed, epoch, step, rank), and broken images are passed over and named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from support.datasets import make_dataset

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.images.decode import encode_png
from eolgul.model.package import EmbeddingContract
from eolgul.model.recognizer import network_input
from eolgul.train.augment import augment
from eolgul.train.data import Batch, TrainingData, to_input
from eolgul.train.distributed import World
from eolgul.train.recipe import Recipe

OFF = ["flip=0.0", "photometric=0.0", "shift=0"]


def data(toy: Path, workers: int, *overrides: str, world: World | None = None) -> TrainingData:
    recipe = Recipe.load("demo-full", ["batch_size=10", *overrides])
    return TrainingData(FaceDataset(toy), recipe, workers=workers, world=world or World())


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("faces", "labels", "rows"))


@pytest.mark.process
def test_any_position_can_be_reached_at_once_with_any_number_of_workers(toy: Path) -> None:
    whole = list(data(toy, 1).batches(epoch=3))
    part = list(data(toy, 3).batches(epoch=3, start=4))
    assert len(whole) == 7
    assert all(same(one, other) for one, other in zip(whole[4:], part, strict=True))


@pytest.mark.process
@pytest.mark.parametrize("size", [2, 5])
def test_the_ranks_parts_of_a_step_are_the_step_of_one_process(toy: Path, size: int) -> None:
    whole = list(data(toy, 1).batches(epoch=1))
    parts = [list(data(toy, 1, world=World(rank, size)).batches(epoch=1)) for rank in range(size)]
    for step, batch in enumerate(whole):
        together = [part[step] for part in parts]
        for name in ("faces", "labels", "rows"):
            assert torch.equal(torch.cat([getattr(one, name) for one in together]), getattr(batch, name))


def test_a_batch_that_cannot_be_cut_is_refused(toy: Path) -> None:
    with pytest.raises(InputError, match="10 cannot be cut into 3 processes x 1"):
        data(toy, 1, world=World(0, 3))
    with pytest.raises(InputError, match="10 cannot be cut into 2 processes x 2"):
        data(toy, 1, "accumulation=2", world=World(0, 2))


@pytest.mark.process
def test_an_epoch_shows_every_image_once_and_the_next_in_another_order(toy: Path) -> None:
    training = data(toy, 1, "batch_size=9", *OFF)
    orders = []
    for epoch in (0, 1):
        faces = torch.cat([batch.faces for batch in training.batches(epoch)])
        assert len({face.numpy().tobytes() for face in faces}) == 72
        orders.append(faces[:9].numpy().tobytes())
    assert orders[0] != orders[1]


def test_only_training_people_are_seen(toy: Path) -> None:
    dataset = FaceDataset(toy)
    identities = {dataset.column("identity")[row] for row in data(toy, 1).rows}
    assert identities == {f"toy.{name}" for name in ("red", "green", "blue", "white", "dark", "yellow")}


def two_sources(out: Path, broken: tuple[int, ...] = (), size: int = 112) -> Path:
    """60 images of "web" and 20 of "kface"; those numbered in `broken` are cut off."""
    rng = np.random.default_rng(0)
    with make_dataset(out, step="assemble", recipe={}, inputs=[], synthetic=True) as writer:
        for number in range(80):
            source = "web" if number < 60 else "kface"
            face = encode_png(rng.integers(0, 256, (size, size, 3), np.uint8))
            face = face[: len(face) // 2] if number in broken else face
            writer.add(f"{source}.{number % 8}/{number}", f"{source}.{number % 8}", face, extension="png",
                       size=(size, size), source=source, facts={"split": "train"})  # fmt: skip
        writer.describe(name="assembled", identities_known=True, aligned="arcface-112-v1", detector=None, splits={})
    return out


@pytest.mark.parametrize(("weight", "shown"), [(3.0, 40), (1.0, 20), (0.0, 0), (9.0, 60)])
def test_sources_are_shown_by_weight(tmp_path: Path, weight: float, shown: int) -> None:
    """Weight w for 20 of 80 images: 80 * 20w / (60 + 20w) of the epoch's 80 are of them, each as often as any other."""
    training = data(two_sources(tmp_path / "two"), 1, f"source_weights={{kface={weight}}}")
    order = training.order(0)
    korean = Counter(int(position) for position in order if position >= 60)
    assert (len(order), sum(korean.values())) == (80, shown)
    assert max(korean.values(), default=0) - min((korean[position] for position in range(60, 80)), default=0) <= 1
    assert np.array_equal(order, training.order(0)) and not np.array_equal(order, training.order(1))


def test_unknown_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"names k-face, expected some of the sources kface, web"):
        data(two_sources(tmp_path / "two"), 1, 'source_weights={"k-face"=2.0}')


@pytest.mark.process
def test_broken_images_are_passed_over_and_named(tmp_path: Path) -> None:
    dataset = two_sources(tmp_path / "two", broken=(7, 8, 70))
    for workers in (1, 2):
        batches = list(data(dataset, workers).batches(epoch=0))
        rows = [int(row) for batch in batches for row in batch.rows]
        named = {row: why for batch in batches for row, why in batch.unreadable.items()}
        assert set(named) == {7, 8, 70}
        assert all("broken" in why for why in named.values())
        assert len(rows) == 80 and not {7, 8, 70} & set(rows)
        assert Counter(rows)[9] == 3  # stands in for its neighbours


@pytest.mark.process
def test_nothing_but_broken_images_is_one_sentence(tmp_path: Path) -> None:
    dataset = two_sources(tmp_path / "two", size=96)
    with pytest.raises(InputError, match=r"^[^\n]*100 images in a row[^\n]*96x96 pixels[^\n]*$"):
        list(data(dataset, 1).batches(epoch=0))


def test_training_sees_what_serving_sees() -> None:
    faces = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)
    for color in ("RGB", "BGR"):
        contract = EmbeddingContract(color=color)
        got = to_input(torch.from_numpy(faces), contract)
        assert np.array_equal(got.numpy(), network_input(faces, contract))
        assert got.is_contiguous(memory_format=torch.channels_last) or color == "BGR"


FACE = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)


@pytest.mark.parametrize(
    "key", ["flip=1.0", "photometric=0.3", "saturation=0.5", "shift=4", "crop=1.0", "low_resolution=1.0"]
)
def test_each_augmentation_alone(key: str) -> None:
    recipe = Recipe.load("demo-full", [*OFF, key])
    variants = [augment(FACE, recipe, [seed]) for seed in range(20)]
    assert all(variant.shape == FACE.shape and variant.dtype == np.uint8 for variant in variants)
    assert sum(not np.array_equal(variant, FACE) for variant in variants) >= 19
    assert all(np.array_equal(variant, augment(FACE, recipe, [seed])) for seed, variant in enumerate(variants))


def test_augmentation_can_be_switched_off() -> None:
    assert np.array_equal(augment(FACE, Recipe.load("demo-full", OFF), [1]), FACE)


def test_what_the_augmentations_do() -> None:
    def one(key: str, seed: int = 1) -> np.ndarray:
        return augment(FACE, Recipe.load("demo-full", [*OFF, key]), [seed])

    assert np.array_equal(one("flip=1.0"), FACE[:, ::-1])
    window = one("crop=1.0")
    kept = (window == FACE).all(axis=2)
    assert 0.15 < kept.mean() <= 1 and (window[~kept] == 0).all()
    smooth = [one("low_resolution=1.0", seed) for seed in range(30)]
    assert np.median([np.abs(np.diff(face.astype(int), axis=0)).mean() for face in smooth]) < 60  # noise itself: 85
    grey = np.repeat(FACE[..., :1], 3, axis=2)
    assert np.array_equal(augment(grey, Recipe.load("demo-full", [*OFF, "saturation=0.9"]), [1]), grey)
