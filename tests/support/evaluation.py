"""A hand-made world small enough to reason about: people who are coloured pictures, and a network that projects pixels."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eolgul.artifact import seal, writing
from eolgul.evaluate.calibrate import AllPairScores
from eolgul.evaluate.config import EvaluateConfig
from eolgul.evaluate.pairs import score_all_pairs
from eolgul.model.package import EmbeddingContract
from support.datasets import make_dataset

PEOPLE = 28
# What a package says of its training; the first epoch has too few training people for a loss beside the other.
TRAINED = {
    "best_epoch": 3,
    "curve": [
        {"epoch": epoch, "train_loss": 9.5 - epoch, "validation": {"loss": 3.0 / epoch, "auc": 0.9},
         "training_people": None if epoch == 1 else {"loss": 2.0 / epoch**2, "accuracy": 0.9}}
        for epoch in range(1, 5)
    ],
}  # fmt: skip
IMAGES = 6


def face(person: int, image: int, noise: float = 60.0) -> bytes:
    """A 112x112 PNG: a smooth colour pattern that is the person's own, with noise that is the image's own."""
    own = np.random.default_rng(person)
    other = np.random.default_rng((person, image))
    coarse = own.uniform(40, 215, (7, 7, 3)) + other.normal(0, noise, (7, 7, 3))
    pixels = Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize((112, 112), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    pixels.save(buffer, "PNG")
    return buffer.getvalue()


def write_model(
    folder: Path, *, blind: bool = False, seed: int = 0, learned: Path | None = None, complete: bool = True
) -> Path:
    """A ModelPackage whose network averages 16x16 blocks and projects them; a blind one multiplies the pixels by 0.

    It says that it learned from the training people of the dataset `learned`; without one that is unknown. With
    `complete` False it began with weights whose past is unknown.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from eolgul.dataset import FaceDataset
    from eolgul.train.package import provenance

    random = np.random.default_rng(seed)
    projection = random.normal(0, 1, (147, 32)).astype(np.float32) * (0.0 if blind else 1.0)
    bias = np.ones(32, dtype=np.float32) * (1.0 if blind else 0.0)
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["face"], ["pooled"], kernel_shape=[16, 16], strides=[16, 16]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "projection", "bias"], ["embedding"]),
        ],
        "projection",
        [helper.make_tensor_value_info("face", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 32])],
        [numpy_helper.from_array(projection, "projection"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with writing(folder) as out:
        onnx.save(model, str(out / "model.onnx"))
        config = {
            "backbone": "projection",
            "embedding_size": 32,
            "contract": EmbeddingContract(flip="none").to_json(),
        }
        (out / "config.json").write_text(json.dumps(config))
        (out / "training.json").write_text(json.dumps(TRAINED))
        (out / "detector").mkdir()
        for name in ("pnet", "rnet", "onet"):
            (out / "detector" / f"{name}.onnx").write_bytes(b"a stand-in; evaluation never detects")
        if learned is not None:
            past = provenance(FaceDataset(learned))
            (past if complete else past.joined(None)).write(out)
        seal(out, "ModelPackage", step="test", version=1, recipe={}, inputs=[], contents={}, synthetic=False)
    return folder


def default_split(person: int) -> str:
    return "train" if person < 4 else "calibration" if person < 14 else "test"


def write_people(
    folder: Path,
    *,
    split: Callable[[int], str] = default_split,
    aligned: str | None = "arcface-112-v1",
    synthetic: bool = True,
    images: int = IMAGES,
    twice: Sequence[tuple[int, str]] = (),
    rejected: Sequence[str] = ("no_face", "duplicate_key"),
) -> Path:
    """A FaceDataset of PEOPLE; `twice` puts one more image of a person into another split, which is a leak.

    `rejected`: reasons of rejected images of a test person.
    """
    with make_dataset(folder, step="test", recipe={}, inputs=[], synthetic=synthetic) as writer:
        for person in range(PEOPLE):
            name = f"p{person:02}"
            for image in range(images):
                facts = {"split": split(person), "camera": f"C{5 + image % 3}", "light": f"L{1 + image % 2}"}
                facts |= {"accessory": f"S00{1 + image // 3}", "expression": f"E0{1 + image % 3}", "resolution": "mid"}
                writer.add(
                    f"{name}/{image}",
                    name,
                    face(person, image),
                    extension="png",
                    size=(112, 112),
                    source="test",
                    facts=facts,
                )
        for person, other in twice:
            name = f"p{person:02}"
            writer.add(
                f"{name}/x",
                name,
                face(person, 99),
                extension="png",
                size=(112, 112),
                source="test",
                facts={"split": other},
            )
        for number, reason in enumerate(rejected):
            writer.reject(f"p20/x{number}", source="test", identity="p20", reason=reason, detail="a sentence")
        writer.describe(aligned=aligned, name="people", identities_known=True)
    return folder


def write_benchmark(
    folder: Path, *, name: str = "lfw", known: bool = False, pairs: int = 60, synthetic: bool = False
) -> Path:
    """A Benchmark in ten folds, half its pairs genuine, of people of its own."""
    with make_dataset(folder, step="test", recipe={}, inputs=[], synthetic=synthetic) as writer:
        same = [pair % 2 == 0 for pair in range(pairs)]
        for pair, genuine in enumerate(same):
            for side in (0, 1):
                person = 1000 + 2 * pair + (0 if genuine else side)
                identity = f"b{person}"
                writer.add(
                    f"{pair}/{side}", identity, face(person, side), extension="png", size=(112, 112), source=name
                )
        fold = [pair * 10 // pairs for pair in range(pairs)]
        writer.pairs([2 * n for n in range(pairs)], [2 * n + 1 for n in range(pairs)], same, fold)
        writer.describe(aligned="arcface-112-v1", name=name, identities_known=known, pairs=pairs, pairs_lost=3)
    return folder


def some_pairs(seed: int = 0, people: int = 20, images: int = 5, spread: float = 0.8) -> AllPairScores:
    random = np.random.default_rng(seed)
    centres = np.repeat(random.normal(size=(people, 24)), images, axis=0)
    vectors = centres + spread * random.normal(size=centres.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return score_all_pairs(vectors.astype(np.float32), np.repeat(np.arange(people), images), block=32)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, people: Path) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model", learned=people)


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people") / "people")


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory: pytest.TempPathFactory, model: Path, people: Path) -> Path:
    from eolgul.evaluate.step import evaluate

    base = tmp_path_factory.mktemp("evaluation")
    sets = [write_benchmark(base / "lfw"), write_benchmark(base / "own", name="own", known=True, synthetic=True)]
    return evaluate(model, people, sets, base / "out", EvaluateConfig(fmr=1e-4, threads=1, quality_images=20)).path
