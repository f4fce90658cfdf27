"""The steps of a run with a store, where they differ from the steps at places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.evaluation import write_model, write_people

from eolgul.steps import Store, models, tasks
from eolgul.train.config import TrainConfig


@pytest.mark.parametrize("nodes", [1, 2])
def test_other_machines_write_the_model_to_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: int
) -> None:
    people, asked = write_people(tmp_path / "people"), []

    def train(dataset: str, out: str, config: TrainConfig, **_: Any) -> dict[str, Any]:
        asked.append(out)
        write_model(Path(out))
        return {"kind": "ModelPackage"}

    monkeypatch.setattr(models, "train", train)
    workspace = tmp_path / "workspace"
    made = tasks.train_one(Store(str(workspace)), str(people), TrainConfig(recipe="demo", nodes=nodes))
    written = json.loads((Path(made["artifact"]) / "training.json").read_bytes())
    assert (Path(made["artifact"]) / "model.onnx").is_file() and made["figures"] == tasks.training_figures(written)
    [place] = asked
    assert Path(place).is_relative_to(workspace / "making") is (nodes == 2)
