"""The loop learns, resumes to the bit, and packages only what it can prove."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.datasets import make_dataset
from support.training import TinyNet, paint, tiny

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.images.decode import decode, encode_png
from eolgul.model.onnx_export import export
from eolgul.model.package import ModelPackage
from eolgul.model.recognizer import Recognizer
from eolgul.train import backbones
from eolgul.train.journal import Journal
from eolgul.train.loop import train
from eolgul.train.package import check_export


def test_learns_and_packages(toy: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    made = train(toy, tmp_path / "model", recipe=tiny(), report=rows.append)
    assert made is not None
    epochs = [row for row in rows if "validation" in row]
    assert len(epochs) == 4
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert epochs[-1]["validation"]["auc"] > 0.9
    package = ModelPackage.open(tmp_path / "model")
    assert package.artifact.synthetic  # the toy says it is drawn, and so must what was learned from it
    assert "Synthetic" in (package.path / "CARD.md").read_text()
    dataset = FaceDataset(toy)
    faces = np.stack([decode(dataset.read(row))[0] for row in range(0, 108, 6)])
    similarity = Recognizer.from_package(package).embed(faces) @ Recognizer.from_package(package).embed(faces).T
    labels = dataset.numpy("label")[0:108:6]
    same = labels[:, None] == labels
    assert similarity[same].mean() > similarity[~same].mean() + 0.2


def test_the_mirror_image_is_left_out_where_the_recipe_says_so(toy: Path, tmp_path: Path) -> None:
    faces = np.stack([decode(FaceDataset(toy).read(row))[0] for row in range(4)])
    mirrored = np.ascontiguousarray(faces[:, :, ::-1])
    for flip in ("sum", "none"):
        made = train(toy, tmp_path / flip, recipe=tiny("epochs=1", f"embed_flip={flip}"))
        assert made is not None
        embedder = Recognizer.from_package(ModelPackage.open(made.path))
        likeness = (embedder.embed(faces) * embedder.embed(mirrored)).sum(axis=1)
        assert (likeness > 1 - 1e-5).all() == (flip == "sum")


ADA = [
    "head=adaface",
    "margin=0.3",
    "optimizer=adamw",
    "learning_rate=0.003",
    "ema=0.9",
    "accumulation=2",
    "schedule=poly",
]
PART = ["sample=0.6", "centers=2", "head=combined", "margin_m3=0.1", "precision=bf16", "clip_norm=0.5"]
ORIGINALS = ["clip=backbone", "decay=all", "last_decay=2", "margin_gradient=straight-through", "head_init=unit",
             "last_layer_fp32=true", "precision=bf16", "base_batch=24"]  # fmt: skip
HALF = ["precision=fp16", "crop=0.3", "low_resolution=0.3", "variants=[]"]


@pytest.mark.parametrize(
    ("stops", "options"),
    [([1], []), ([12, 1], []), ([7, 3, 9], []), ([8, 5], ADA), ([3, 10], PART), ([9], HALF), ([5, 7], ORIGINALS)],
)
def test_a_run_that_was_stopped_ends_bit_identical(
    toy: Path, tmp_path: Path, stops: list[int], options: list[str]
) -> None:
    whole = train(toy, tmp_path / "whole" / "model", recipe=tiny(*options))
    out = tmp_path / "pieces" / "model"
    for steps in stops:
        assert train(toy, out, recipe=tiny(*options), max_steps=steps) is None
        assert not out.exists()
    pieces = train(toy, out, recipe=tiny(*options))
    assert whole is not None and pieces is not None
    one, other = load_file(whole.path / "model.safetensors"), load_file(pieces.path / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert whole.digest == pieces.digest


def test_a_checkpoint_is_not_used_for_another_recipe(toy: Path, tmp_path: Path) -> None:
    train(toy, tmp_path / "a" / "model", recipe=tiny(), checkpoints=str(tmp_path / "c"), max_steps=3)
    train(toy, tmp_path / "a" / "model", recipe=tiny("seed=1"), checkpoints=str(tmp_path / "c"), max_steps=3)
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_the_same_call_twice_trains_once(toy: Path, tmp_path: Path) -> None:
    first = train(toy, tmp_path / "model", recipe=tiny())
    rows: list[dict[str, Any]] = []
    second = train(toy, tmp_path / "model", recipe=tiny(), report=rows.append)
    assert first is not None and second is not None
    assert (second.digest, rows) == (first.digest, [])


def test_the_best_epoch_is_chosen_by_validation_people_only(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With figures that say epoch 2 was best, the weights of epoch 2 are packaged, whatever the training loss says."""
    from eolgul.train import validate

    seen = iter([0.5, 0.9, 0.6, 0.7])
    snapshots: list[torch.Tensor] = []
    embed = validate.Validation.embed

    def watch(self: validate.Validation, network: torch.nn.Module, device: torch.device) -> np.ndarray:
        snapshots.append(network.state_dict()["out.2.weight"].clone())
        return embed(self, network, device)

    def measure(*_: Any) -> dict[str, float]:
        return {"auc": next(seen), "tar_at_fmr_1e-2": 0.0, "tar_at_fmr_1e-3": 0.0, "loss": 1.0, "accuracy": 0.0}

    monkeypatch.setattr(validate.Validation, "embed", watch)
    monkeypatch.setattr(validate.Validation, "measure", measure)
    made = train(toy, tmp_path / "model", recipe=tiny())
    assert made is not None
    assert torch.equal(load_file(made.path / "model.safetensors")["out.2.weight"], snapshots[1])
    assert made.contents["best_epoch"] == 2


def test_a_network_that_ignores_its_input_is_not_packaged(tmp_path: Path) -> None:
    class Deaf(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answer = torch.nn.Parameter(torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.answer + 0 * x.mean(dim=(1, 2, 3))[:, None]

    probe = torch.randn(4, 3, 112, 112)
    export(Deaf(), probe, tmp_path / "deaf.onnx", ["embeddings"], {})
    with pytest.raises(InputError, match="same embedding"):
        check_export(Deaf(), tmp_path / "deaf.onnx", probe.numpy())


def test_an_export_of_other_weights_is_not_packaged(tmp_path: Path) -> None:
    probe = torch.randn(4, 3, 112, 112)
    one, other = (torch.nn.Sequential(torch.nn.Conv2d(3, 4, 9, 9), torch.nn.Flatten()) for _ in range(2))
    export(one, probe, tmp_path / "one.onnx", ["embeddings"], {})
    check_export(one, tmp_path / "one.onnx", probe.numpy())
    with pytest.raises(InputError, match="embeddings that differ from torch"):
        check_export(other, tmp_path / "one.onnx", probe.numpy())


def test_too_little_to_train_on_is_said(tmp_path: Path, assembled_writer: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    one = assembled_writer(tmp_path / "one", {"red": (200, 0, 0), "a": (0, 9, 9), "b": (9, 9, 0)}, rng, ("a", "b"))
    with pytest.raises(InputError, match="1 training identity"):
        train(one, tmp_path / "model", recipe=tiny())
    with pytest.raises(InputError, match="fewer than one batch"):
        train(one, tmp_path / "model", recipe=tiny("batch_size=64"))


def figures(values: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    from eolgul.train import validate

    seen = iter(values)
    names = ("auc", "tar_at_fmr_1e-2", "tar_at_fmr_1e-3", "tar_at_fmr_1e-4", "loss", "accuracy")
    monkeypatch.setattr(validate.Validation, "measure", lambda *_: dict.fromkeys(names, next(seen)))


def test_a_run_ends_when_no_better_epoch_comes(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures([0.7, 0.9, 0.8, 0.85, 0.95, 0.99], monkeypatch)
    made = train(toy, tmp_path / "model", recipe=tiny("epochs=6", "patience=2"))
    assert made is not None
    facts = json.loads((made.path / "training.json").read_text())
    assert (len(facts["curve"]), facts["best_epoch"]) == (4, 2)


def test_the_figure_that_chooses_can_be_the_loss(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures([0.7, 0.9, 0.3, 0.85], monkeypatch)
    made = train(toy, tmp_path / "model", recipe=tiny("choose_by=loss"))
    assert made is not None and made.contents["best_epoch"] == 3


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_images(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the loss is (nan|inf).*not-finite\.json"):
        train(toy, tmp_path / "model", recipe=tiny("learning_rate=1e30", "clip_norm=1e30"))
    (file,) = (tmp_path / "checkpoints").glob("*/not-finite.json")
    said = json.loads(file.read_text())
    assert len(said["images"]) == 12 and all(name.startswith("toy.") for name in said["images"])
    assert said["epoch"] == 1 and not (tmp_path / "model").exists()


def test_broken_images_are_counted_and_too_many_stop_the_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    people = {"red": (200, 60, 60), "blue": (60, 60, 200), "green": (60, 200, 60), "cyan": (60, 200, 200)}
    with make_dataset(tmp_path / "toy", step="assemble", recipe={}, inputs=[], synthetic=True) as writer:
        for number, (name, colour) in enumerate(people.items()):
            for image in range(12):
                face = encode_png(paint(colour, rng))
                face = face[:900] if (name, image) == ("red", 5) else face
                writer.add(f"t.{name}/{image}", f"t.{name}", face, extension="png", size=(112, 112), source="t",
                           facts={"split": "train" if number < 2 else "validation"})  # fmt: skip
        writer.describe(name="assembled", identities_known=True, aligned="arcface-112-v1", detector=None, splits={})
    options = ["batch_size=8", "epochs=2"]
    with pytest.raises(InputError, match=r"1 of 24 training images.*max_unreadable=0\.001.*t\.red/5"):
        train(tmp_path / "toy", tmp_path / "model", recipe=tiny(*options))
    rows: list[dict[str, Any]] = []
    recipe = tiny(*options, "max_unreadable=0.05")
    made = train(tmp_path / "toy", tmp_path / "model", recipe=recipe, report=rows.append)
    assert made is not None
    assert [row["warning"] for row in rows if "warning" in row and "t.red/5" in row["warning"]]
    facts = json.loads((made.path / "training.json").read_text())
    assert facts["unreadable"]["images"] == 1 and list(facts["unreadable"]["named"]) == ["t.red/5"]
    assert "1 training images could not be read" in (made.path / "CARD.md").read_text()


def test_too_little_memory_suggests_settings(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hungry(TinyNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.empty(2**60)
            return super().forward(x)

    monkeypatch.setitem(backbones.BACKBONES, "hungry", Hungry)
    with pytest.raises(InputError, match=r"^out of memory on cpu[^\n]*accumulation=2[^\n]*$"):
        train(toy, tmp_path / "model", recipe=tiny("backbone=hungry"))


def test_what_a_run_writes_down(toy: Path, tmp_path: Path) -> None:
    made = train(toy, tmp_path / "model", recipe=tiny("epochs=2"), tensorboard=True)
    assert made is not None
    (logs,) = (tmp_path / "checkpoints").glob("*/logs")
    rows = [json.loads(line) for line in (logs / "metrics.jsonl").read_text().splitlines()]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    assert [row["update"] for row in epochs] == [6, 12]
    assert {"train_loss", "validation", "data_wait"} <= epochs[0].keys()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logs))
    events.Reload()
    assert [event.step for event in events.Scalars("epoch/validation/auc")] == [6, 12]
    assert events.Scalars("epoch/train_loss")[1].value == pytest.approx(epochs[1]["train_loss"])


def test_a_journal_takes_back_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    first = Journal(tmp_path, update=0, tensorboard=False)
    for update in (3, 6, 9):
        first.write("step", update, {"loss": 1.0})
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "upda')  # killed while writing
    again = Journal(tmp_path, update=6, tensorboard=False)
    again.write("step", 7, {"loss": 1.0})
    again.close()
    assert [json.loads(line)["update"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [3, 6, 7]


def test_more_onnx_files_come_with_what_they_cost(toy: Path, tmp_path: Path) -> None:
    before = logging.getLogger().level
    made = train(toy, tmp_path / "model", recipe=tiny("epochs=2", 'variants=["fp16", "int8"]'))
    assert logging.getLogger().level == before  # or no warning of this process would be heard any more
    assert made is not None
    package = ModelPackage.open(made.path, check="sha256")
    facts = json.loads((package.path / "training.json").read_text())["variants"]
    dataset = FaceDataset(toy)
    faces = np.stack([decode(dataset.read(row))[0] for row in range(0, 108, 9)])
    exact = Recognizer.from_package(package).embed(faces)
    for name, least in (("fp16", 0.9999), ("int8", 0.9)):
        file = package.path / facts[name]["file"]
        assert facts[name]["bytes"] == file.stat().st_size
        assert facts[name]["least_cosine"] > least
        other = Recognizer(file, package.contract).embed(faces)
        assert ((exact * other).sum(axis=1) > least).all() and not np.array_equal(exact, other)
        assert file.name in (package.path / "CARD.md").read_text()
    assert json.loads((package.path / "config.json").read_text())["onnx"]["opset"] == 17
