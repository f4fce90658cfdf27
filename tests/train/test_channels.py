"""Red stays red: from the file to the network's input in training, and to the embedding that ONNX Runtime gives."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from support.datasets import make_dataset

from eolgul.dataset import FaceDataset
from eolgul.extract.step import extract
from eolgul.formats.insightface import write_rec
from eolgul.model.package import EmbeddingContract, ModelPackage
from eolgul.model.recognizer import Recognizer, network_input
from eolgul.train.data import TrainingData, read_face, to_input
from eolgul.train.loop import train
from eolgul.train.recipe import Recipe

RED, BLUE = (230, 30, 20), (20, 30, 230)


def jpeg(colour: tuple[int, int, int], shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (112, 112), tuple(max(0, value - shade) for value in colour)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def coded(tmp_path: Path) -> Path:
    """JPEGs in a train.rec, extracted: four people who differ in colour only; red and blue swap places if B and R do."""
    people = [RED, BLUE, (30, 220, 30), (128, 128, 128), (220, 220, 40), (40, 220, 220), (200, 90, 160)]
    write_rec(
        tmp_path / "coded", ((label, jpeg(colour, 4 * k)) for label, colour in enumerate(people) for k in range(8))
    )
    extract(tmp_path / "coded", tmp_path / "extracted")
    source = FaceDataset(tmp_path / "extracted")
    with make_dataset(tmp_path / "assembled", step="assemble", recipe={}, inputs=[], synthetic=False) as writer:
        for row, identity in enumerate(source.column("identity")):
            split = "validation" if int(identity) >= 5 else "train"
            writer.add(f"{identity}/{row}", identity, source.read(row), extension="jpg", size=(112, 112), source="coded",
                       facts={"split": split})  # fmt: skip
        writer.describe(name="assembled", identities_known=True, aligned="arcface-112-v1", detector=None, splits={})
    return tmp_path / "assembled"


@pytest.mark.process
def test_training_sees_red_in_channel_0(tmp_path: Path) -> None:
    dataset = FaceDataset(coded(tmp_path))
    recipe = Recipe.load("demo-full", ["batch_size=8", "photometric=0.0", "shift=0"])
    data = TrainingData(dataset, recipe, workers=1)
    seen = set()
    for batch in data.batches(epoch=0):
        inputs = to_input(batch.faces, EmbeddingContract())
        for image, label in zip(inputs.numpy(), batch.labels.tolist(), strict=True):
            if label in (0, 1):
                expected = np.array(RED if label == 0 else BLUE) / 127.5 - 1
                np.testing.assert_allclose(image.mean(axis=(1, 2)), expected, atol=0.3)
                seen.add(label)
    assert seen == {0, 1}


@pytest.mark.process
def test_the_exported_model_answers_for_rgb_and_notices_a_swap(tmp_path: Path) -> None:
    path = coded(tmp_path)
    recipe = Recipe.load("demo-full", ["backbone=tiny", "embedding_size=16", "batch_size=8", "epochs=6", "learning_rate=0.05",
                                  "scale=8.0", "margin=0.1", "precision=fp32"])  # fmt: skip
    made = train(path, tmp_path / "model", recipe=recipe)
    assert made is not None
    package = ModelPackage.open(made.path)
    dataset = FaceDataset(path)
    red = read_face(dataset, dataset.column("identity").index("000000"))
    blue = read_face(dataset, dataset.column("identity").index("000001"))
    recognizer = Recognizer.from_package(package)
    embeddings = recognizer.embed(np.stack([red, blue]))
    # By hand: PIL's RGB, the contract's numbers, the raw network. Nothing of ours in between.
    session = onnxruntime.InferenceSession(str(package.path / "model.onnx"), providers=["CPUExecutionProvider"])
    x = np.asarray(Image.open(io.BytesIO(dataset.read(dataset.column("identity").index("000000")))).convert("RGB"))
    x = ((x.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[None]
    y = session.run(None, {"images": x})[0] + session.run(None, {"images": np.ascontiguousarray(x[..., ::-1])})[0]
    np.testing.assert_allclose(embeddings[0], (y / np.linalg.norm(y))[0], atol=1e-5)
    swapped = recognizer.embed(np.ascontiguousarray(red[None, ..., ::-1]))[0]
    assert float(swapped @ embeddings[1]) > float(swapped @ embeddings[0])  # red with B and R swapped is a blue person


@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_the_contract_says_the_order(color: str) -> None:
    face = np.zeros((1, 112, 112, 3), np.uint8)
    face[..., 0] = 255
    channels = network_input(face, EmbeddingContract(color=color)).mean(axis=(0, 2, 3))
    assert channels.tolist() == ([1.0, -1.0, -1.0] if color == "RGB" else [-1.0, -1.0, 1.0])
