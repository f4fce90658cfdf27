"""The loss of training people is measured as that of validation people: alike numbers, no margin, no augmentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.training import TinyNet, tiny, write_assembled
from torch.nn import functional as F

from eolgul.dataset import FaceDataset
from eolgul.model.package import EmbeddingContract
from eolgul.train.journal import training_line
from eolgul.train.loop import train
from eolgul.train.validate import TrainingPeople, Validation, _alike, closed_set


@given(
    people=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    held=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    seed=st.integers(0, 5),
)
def test_the_sample_is_like_the_validation_split(people: list[int], held: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(people)), people)).astype(np.int32)
    rows = np.sort(np.random.default_rng(seed + 1).permutation(3 * len(labels))[: len(labels)]).astype(np.int64)
    table = np.full(3 * len(labels), -1, np.int32)
    table[rows] = labels
    wanted = sorted((count for count in held if count > 1), reverse=True)
    fits = len(wanted) <= len(people) and all(
        size >= count for size, count in zip(sorted(people, reverse=True), wanted, strict=False)
    )
    if not wanted:
        return
    found = _alike(rows, table, np.array(held))
    if found is None:
        assert not fits
        return
    assert fits and len(set(found.tolist())) == len(found) and set(found.tolist()) <= set(rows.tolist())
    assert sorted(np.unique(table[found], return_counts=True)[1].tolist(), reverse=True) == wanted
    again = _alike(rows, table, np.array(held))
    assert again is not None and np.array_equal(found, again)


def test_the_closed_set_loss_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    embeddings = F.normalize(torch.from_numpy(rng.normal(size=(8, 5)).astype(np.float32))).numpy()
    labels = np.array([4, 4, 4, 4, 9, 9, 9, 2], np.int32)  # one image alone is no prototype
    gallery = [embeddings[:2].mean(0), embeddings[4:5].mean(0)]
    gallery = [row / np.linalg.norm(row) for row in gallery]
    total = 0.0
    for row, truth in ((2, 0), (3, 0), (5, 1), (6, 1)):
        logits = np.array([7.0 * embeddings[row] @ centre for centre in gallery])
        total += np.log(np.exp(logits).sum()) - logits[truth]
    assert closed_set(embeddings, labels, 7.0)["loss"] == pytest.approx(total / 4, rel=1e-5)


def test_a_network_that_learns_by_heart_has_a_gap(tmp_path: Path) -> None:
    """On pictures of noise alone, nothing that is learned holds for others."""
    rng = np.random.default_rng(4)
    colours = {f"p{number:02}": (128, 128, 128) for number in range(16)}
    data = FaceDataset(write_assembled(tmp_path / "noise", colours, rng, validation=tuple(list(colours)[10:])))
    validation = Validation(data, EmbeddingContract())
    sample = TrainingPeople(data, validation)
    assert sample.rows is not None and len(sample.rows) == len(validation.rows)
    torch.manual_seed(0)
    network = TinyNet(16)

    class ByHeart(torch.nn.Module):
        """Knows the training people by their pictures, and nobody else."""

        def __init__(self) -> None:
            super().__init__()
            rows = data.rows("train")
            self.known = torch.from_numpy(validation.inputs(rows)).flatten(1)
            self.labels = torch.from_numpy(data.numpy("label")[rows]).long()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            distance, place = torch.cdist(x.flatten(1), self.known, compute_mode="donot_use_mm_for_euclid_dist").min(
                dim=1
            )
            learned = F.one_hot(self.labels[place], 16).float()
            return torch.where((distance < 1e-2)[:, None], learned, network(x))

    cpu, heart = torch.device("cpu"), ByHeart()
    learned = sample.measure(heart, cpu, 16.0)
    assert learned is not None and learned["accuracy"] == 1.0
    assert validation.measure(validation.embed(heart, cpu), 16.0)["loss"] > learned["loss"] + 1
    before = sample.measure(network, cpu, 16.0)
    assert before is not None
    assert before["loss"] == pytest.approx(validation.measure(validation.embed(network, cpu), 16.0)["loss"], rel=0.3)


def test_it_is_written_down_and_said(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = []
    made = train(toy, tmp_path / "model", recipe=tiny("epochs=2"), report=rows.append, workers=0)
    assert made is not None
    (metrics,) = (tmp_path / "checkpoints").glob("*/logs/metrics.jsonl")
    written = [json.loads(line) for line in metrics.read_text().splitlines()]
    epoch = next(row for row in written if row["kind"] == "epoch")
    assert set(epoch["training_people"]) == {"loss", "accuracy"}
    training_line(next(row for row in rows if "validation" in row))
    assert f"(as many people it trains on: {epoch['training_people']['loss']:.3f})" in capsys.readouterr().err
    assert (
        f"| {epoch['training_people']['loss']:.3f} | {epoch['validation']['loss']:.3f} |"
        in (made.path / "CARD.md").read_text()
    )


def test_too_few_training_people_are_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    colours = {name: (30 * number, 200 - 30 * number, 90) for number, name in enumerate("abcdef")}
    data = write_assembled(tmp_path / "d", colours, np.random.default_rng(0), validation=("c", "d", "e", "f"))
    dataset = FaceDataset(data)
    sample = TrainingPeople(dataset, Validation(dataset, EmbeddingContract()))
    assert sample.rows is None and sample.measure(TinyNet(8), torch.device("cpu"), 8.0) is None
    held = {"auc": 0.5, "tar_at_fmr_1e-2": 0.1, "loss": 2.0}
    training_line({"epoch": 1, "train_loss": 3.0, "training_people": None, "validation": held})
    assert "(as many people it trains on: unknown)" in capsys.readouterr().err
