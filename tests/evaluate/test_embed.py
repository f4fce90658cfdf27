"""Embedding keeps the order, refuses what was not aligned, and notices a network that is blind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.datasets import make_dataset
from support.evaluation import face, write_model, write_people

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.evaluate.embed import embed_rows
from eolgul.images.decode import decode
from eolgul.model.package import ModelPackage
from eolgul.model.recognizer import Recognizer


@pytest.fixture(scope="module")
def recognizer(model: Path) -> Recognizer:
    return Recognizer.from_package(ModelPackage.open(model))


def test_rows_come_back_in_the_order_asked(people: Path, recognizer: Recognizer) -> None:
    dataset = FaceDataset(people)
    rows = np.random.default_rng(0).permutation(len(dataset))[:37]
    said: list[str] = []
    found = embed_rows(dataset, rows, recognizer, batch=5, progress=said.append)
    one_by_one = [recognizer.embed(decode(dataset.read(int(row)))[0][None])[0] for row in rows]
    assert found.dtype == np.float32
    assert np.allclose(found, np.stack(one_by_one), atol=1e-6)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert said[-1] == "embedded 37 of 37 images"


def test_the_colour_order_reaches_the_network(people: Path, recognizer: Recognizer) -> None:
    """Red and blue swapped on the way would give another embedding: the one here is of RGB as decoded."""
    dataset = FaceDataset(people)
    pixels = decode(dataset.read(0))[0][None]
    found = embed_rows(dataset, [0], recognizer)[0]
    assert float(found @ recognizer.embed(pixels)[0]) > 0.9999
    assert float(found @ recognizer.embed(np.ascontiguousarray(pixels[..., ::-1]))[0]) < 0.99


@pytest.mark.parametrize("aligned", [None, "other-template"])
def test_an_unaligned_dataset_is_refused(tmp_path: Path, recognizer: Recognizer, aligned: str | None) -> None:
    dataset = FaceDataset(write_people(tmp_path / "raw", aligned=aligned, images=1))
    with pytest.raises(InputError, match="run `eolgul align` first"):
        embed_rows(dataset, [0], recognizer)


def test_a_blind_network_is_refused(tmp_path: Path, people: Path) -> None:
    blind = Recognizer.from_package(ModelPackage.open(write_model(tmp_path / "blind", blind=True)))
    with pytest.raises(InputError, match="ignores its input"):
        embed_rows(FaceDataset(people), range(10), blind)


def test_one_picture_many_times_is_no_sign_of_blindness(people: Path, recognizer: Recognizer) -> None:
    assert embed_rows(FaceDataset(people), [3] * 10, recognizer).shape == (10, 32)


def test_images_that_cannot_be_used_are_named(tmp_path: Path, recognizer: Recognizer) -> None:
    with make_dataset(tmp_path / "bad", step="test", recipe={}, inputs=[], synthetic=True) as writer:
        writer.add("a/0", "a", face(0, 0)[:200], extension="png", size=(112, 112), source="test")
        small = (Path(__file__).parent / "conftest.py").read_bytes()
        writer.add("b/0", "b", small, extension="png", size=(112, 112), source="test")
        writer.describe(aligned="arcface-112-v1")
    dataset = FaceDataset(tmp_path / "bad")
    with pytest.raises(InputError, match=r"image a/0 \(row 0\)"):
        embed_rows(dataset, [0], recognizer)
    with pytest.raises(InputError, match=r"image b/0 \(row 1\)"):
        embed_rows(dataset, [1], recognizer)
    with pytest.raises(InputError, match="contains no image"):
        embed_rows(dataset, [], recognizer)
