"""The steps of a run with a store, where they differ from the steps at places."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.evaluation import write_model, write_people

from eolgul.artifact import open_artifact, seal, writing
from eolgul.audit.config import AuditConfig
from eolgul.steps import Store, data, models, tasks
from eolgul.steps.places import reference
from eolgul.steps.store import SHORT, references
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
    assert not Path(place).exists()

    Path(place).mkdir(parents=True)  # an attempt was killed when all was recorded and this was not removed yet
    again = tasks.train_one(Store(str(workspace)), str(people), TrainConfig(recipe="demo", nodes=nodes))
    assert again["reused"] and len(asked) == 1 and Path(place).exists() is (nodes == 1)


FOUND = """
import json, sys
from eolgul.steps import Store, tasks
from eolgul.train.config import TrainConfig
made = tasks.train_one(Store(sys.argv[1]), sys.argv[2], TrainConfig(recipe="demo"))
print(json.dumps([made["reused"], sorted({"torch", "onnxruntime"} & set(sys.modules))]))
"""


@pytest.mark.process
def test_a_model_that_was_trained_before_is_found_without_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading it took most of the time of such a task."""

    def train(dataset: str, out: str, config: TrainConfig, **_: Any) -> dict[str, Any]:
        write_model(Path(out))
        return {"kind": "ModelPackage"}

    monkeypatch.setattr(models, "train", train)
    people, workspace = str(write_people(tmp_path / "people")), str(tmp_path / "workspace")
    tasks.train_one(Store(workspace), people, TrainConfig(recipe="demo"))
    argv = [sys.executable, "-c", FOUND, workspace, people]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [True, []]


def test_the_audits_of_two_candidates_are_noted_beside_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They once had one name, and a run's record of the first was overwritten by the second's."""

    def audit(train: Any, against: Any, out: str, config: AuditConfig, *, model: str, **_: Any) -> dict[str, Any]:
        with writing(Path(out)) as folder:
            (folder / "audit.json").write_text(model)
            seal(folder, "Audit", step="audit", version=1, recipe={}, inputs=[], contents={}, synthetic=True)
        return {"kind": "Audit"}

    monkeypatch.setattr(data, "audit", audit)
    people, workspace = write_people(tmp_path / "people"), str(tmp_path / "workspace")
    found = {}
    for seed, recipe in enumerate(("weak", "strong")):
        digest = open_artifact(write_model(tmp_path / recipe, seed=seed)).digest
        place = tmp_path / "workspace" / "artifacts" / "train" / f"{recipe}-{digest[:SHORT]}"
        place.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / recipe).rename(place)
        made = tasks.audit_one(
            Store(workspace, "one"), reference(str(place), digest), str(people), [], AuditConfig(), print
        )
        found[f"audit-{recipe}"] = made["reference"]
    assert references(workspace, "one") == found and len(set(found.values())) == 2
