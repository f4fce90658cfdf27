"""The audit within a run's evaluation: the component hands it the options that it shares with the evaluation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.components import run_component
from support.datasets import make_dataset
from support.evaluation import model, people

from eolgul.components.evaluate.component import evaluate
from eolgul.dataset import FaceDataset
from eolgul.steps import bring

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


@pytest.mark.parametrize("pictures", [True, False])
def test_the_audit_shows_pictures_only_where_the_evaluation_does(
    tmp_path: Path, leaking: Path, model: Path, pictures: bool
) -> None:
    ran = run_component(
        evaluate,
        tmp_path / "out",
        model=str(model),
        dataset=str(leaking),
        benchmarks=[],
        workspace=str(tmp_path / "run"),
        run="first",
        fmr=0.05,
        threads=1,
        pictures=pictures,
        audit=True,
    )
    facts = json.loads(ran.metadata["evaluation_figures"].pop("audit"))
    audit = bring(facts["reference"])
    assert json.loads((audit / "audit.json").read_bytes())["images"]
    page = (audit / "report.html").read_text()
    assert ("data:image" in page) is pictures
    assert {"threshold", "held_out_auc", "held_out_fnmr"} <= ran.metadata["evaluation_figures"].keys()
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in ran.metadata["evaluation_figures"])
    curves = ran.metadata["evaluation_curves"]
    assert {"confidenceMetrics", "confusionMatrix"} <= curves.keys()
    assert ran.files["evaluation_report"].read_text().startswith("<!doctype html>")
