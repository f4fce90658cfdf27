"""The audit within a run's evaluation: the component hands it the options that it shares with the evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.datasets import make_dataset
from support.evaluation import model, people

from eolgul.components.evaluate.component import evaluate
from eolgul.dataset import FaceDataset

__all__ = ["model", "people"]


@pytest.fixture
def leaking(tmp_path: Path, people: Path) -> Path:
    """The people again, one of whose test people has an image of a training person too."""
    source = FaceDataset(people)
    identities, splits = source.column("identity"), source.column("split")
    rows = list(zip(range(len(source)), identities, splits, strict=True))
    copied, tested = splits.index("train"), identities[splits.index("test")]
    facts = {"name": "leaking", "identities_known": True, "aligned": source.artifact.contents["aligned"], "splits": {}}
    with make_dataset(tmp_path / "leaking", step="test", recipe={}, inputs=[], synthetic=True) as writer:
        for number, (row, identity, split) in enumerate([*rows, (copied, tested, "test")]):
            writer.add(f"{number:04}", identity, source.read(row), extension="png", size=(112, 112),
                       source=source.column("source")[row], facts={"split": split})  # fmt: skip
        writer.describe(**facts)
    return tmp_path / "leaking"


class Output:
    """What a component needs of KFP's artifacts."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.metadata: dict[str, Any] = {}

    def log_metric(self, name: str, value: float) -> None:
        self.metadata[name] = value


@pytest.mark.parametrize("pictures", [True, False])
def test_the_audit_shows_pictures_only_where_the_evaluation_does(
    tmp_path: Path, leaking: Path, model: Path, pictures: bool
) -> None:
    facts = Output(tmp_path / "facts.json")
    evaluate.python_func(
        model=str(model),
        dataset=str(leaking),
        benchmarks=[],
        registry=str(tmp_path / "registry"),
        workspace=str(tmp_path / "run"),
        facts=facts,
        report=Output(tmp_path / "report.html"),
        fmr=0.05,
        threads=1,
        pictures=pictures,
        audit=True,
    )
    audited = json.loads((tmp_path / "run" / "audit" / "audit.json").read_bytes())
    assert audited["images"] and json.loads(facts.metadata["audit"])["artifact"] == str(tmp_path / "run" / "audit")
    page = (tmp_path / "run" / "audit" / "report.html").read_text()
    assert ("data:image" in page) is pictures
