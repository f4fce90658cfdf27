"""The loop learns, resumes to the bit, and packages only what it can prove."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.images import decode
from eolgul.modelpackage import ModelPackage
from eolgul.onnxexport import export
from eolgul.recognizer import Recognizer
from eolgul.train.loop import train
from eolgul.train.package import check_export
from eolgul.train.recipe import Recipe

TINY = ["backbone=tiny", "embedding_size=16", "batch_size=12", "epochs=4", "learning_rate=0.1", "scale=16.0",
        "margin_warmup_epochs=1", "warmup_epochs=0", "precision=fp32"]  # fmt: skip


def tiny(*more: str) -> Recipe:
    return Recipe.load("demo", [*TINY, *more])


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
    similarity = Recognizer.of(package).embed(faces) @ Recognizer.of(package).embed(faces).T
    labels = dataset.numpy("label")[0:108:6]
    same = labels[:, None] == labels
    assert similarity[same].mean() > similarity[~same].mean() + 0.2


@pytest.mark.parametrize("stops", [[1], [6], [12, 1], [7, 3, 9]])
def test_a_run_that_was_stopped_ends_bit_identical(toy: Path, tmp_path: Path, stops: list[int]) -> None:
    whole = train(toy, tmp_path / "whole" / "model", recipe=tiny())
    out = tmp_path / "pieces" / "model"
    for steps in stops:
        assert train(toy, out, recipe=tiny(), max_steps=steps) is None
        assert not out.exists()
    pieces = train(toy, out, recipe=tiny())
    assert whole is not None and pieces is not None
    one, other = load_file(whole.path / "model.safetensors"), load_file(pieces.path / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert whole.digest == pieces.digest


def test_a_checkpoint_is_not_used_for_another_recipe(toy: Path, tmp_path: Path) -> None:
    train(toy, tmp_path / "a" / "model", recipe=tiny(), checkpoints=str(tmp_path / "c"), max_steps=3)
    train(toy, tmp_path / "a" / "model", recipe=tiny("seed=1"), checkpoints=str(tmp_path / "c"), max_steps=3)
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_a_broken_checkpoint_is_said(toy: Path, tmp_path: Path) -> None:
    train(toy, tmp_path / "model", recipe=tiny(), max_steps=2)
    (checkpoint,) = (tmp_path / "checkpoints").glob("*/last.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    with pytest.raises(InputError, match=r"last\.pt.*delete it"):
        train(toy, tmp_path / "model", recipe=tiny())


def test_a_hostile_checkpoint_is_not_executed(toy: Path, tmp_path: Path) -> None:
    import os
    import pickle

    train(toy, tmp_path / "model", recipe=tiny(), max_steps=2)
    (checkpoint,) = (tmp_path / "checkpoints").glob("*/last.pt")
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {mark}",)

    checkpoint.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError):
        train(toy, tmp_path / "model", recipe=tiny())
    assert not mark.exists()


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
        return {"auc": next(seen), "tar_at_fmr_1e-2": 0.0, "loss": 1.0, "accuracy": 0.0}

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
    with pytest.raises(InputError, match="other embeddings than torch"):
        check_export(other, tmp_path / "one.onnx", probe.numpy())


def test_too_little_to_train_on_is_said(tmp_path: Path, assembled_writer: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    one = assembled_writer(tmp_path / "one", {"red": (200, 0, 0), "a": (0, 9, 9), "b": (9, 9, 0)}, rng, ("a", "b"))
    with pytest.raises(InputError, match="1 training identity"):
        train(one, tmp_path / "model", recipe=tiny())
    with pytest.raises(InputError, match="fewer than one batch"):
        train(one, tmp_path / "model", recipe=tiny("batch_size=64"))
