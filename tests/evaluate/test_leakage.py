"""Overlap with the training is asked of the model: a figure where its package answers, unknown where it does not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.evaluation import default_split, write_benchmark, write_model, write_people

from eolgul.artifact import open_artifact
from eolgul.errors import InputError
from eolgul.evaluate.config import EvaluateConfig
from eolgul.evaluate.step import evaluate
from eolgul.evaluation.compare import compare
from eolgul.evaluation.reader import read_metrics
from eolgul.evaluation.schema import Leakage

QUICK: dict[str, Any] = {"resamples": 20, "threads": 1, "fmr": 0.05, "pictures": False, "quality_images": 0}


def audit(evaluation: Path) -> Leakage:
    found = read_metrics(evaluation).audit
    assert found is not None
    return found


def test_a_model_of_other_data_is_told_who_it_was_trained_on(tmp_path: Path, people: Path) -> None:
    """Model of A, whose training people are B's test people, measured on B: figures, not B's own zeros."""
    other = write_people(tmp_path / "a", split=lambda person: "train" if person >= 14 else "test")
    model = write_model(tmp_path / "model", learned=other)
    said: list[str] = []
    made = evaluate(model, people, [], tmp_path / "out", EvaluateConfig(**QUICK), progress=said.append)
    found = audit(made.path)
    assert found.known == "all" and not found.left_out
    assert (found.sets["held-out"].people_in_training, found.sets["held-out"].images_in_training) == (14, 84)
    assert any("learned from 14 of the people and 84 of the images of held-out" in line for line in said)
    assert "14" in (made.path / "report.html").read_text(encoding="utf-8")


def test_people_of_a_renamed_source_are_found_by_their_images(tmp_path: Path, people: Path) -> None:
    from support.datasets import make_dataset

    from eolgul.dataset import FaceDataset

    source = FaceDataset(people)
    with make_dataset(tmp_path / "renamed", step="test", recipe={}, inputs=[], synthetic=True) as writer:
        for row in range(len(source)):
            number = int(source.column("identity")[row][1:])
            writer.add(f"x{row:03}", f"new.{number}", source.read(row), extension="png", size=(112, 112), source="new",
                       facts={"split": "train" if number >= 20 else "test"})  # fmt: skip
        writer.describe(aligned="arcface-112-v1", name="renamed", identities_known=True)
    model = write_model(tmp_path / "model", learned=tmp_path / "renamed")
    found = audit(evaluate(model, people, [], tmp_path / "out", EvaluateConfig(**QUICK)).path)
    assert found.sets["held-out"].people_in_training == 8


@pytest.mark.parametrize("of", ["a package that does not say it", "an ONNX file"])
def test_what_nobody_says_is_unknown_and_never_zero(tmp_path: Path, people: Path, of: str) -> None:
    model, options = write_model(tmp_path / "model"), QUICK
    if of == "an ONNX file":
        model, options = model / "model.onnx", {**QUICK, "contract": "insightface"}
    benchmark = write_benchmark(tmp_path / "own", name="own", known=True)
    made = evaluate(model, people, [benchmark], tmp_path / "out", EvaluateConfig(**options))
    found = audit(made.path)
    assert found.known == "none"
    for item in (*found.sets.values(), found.calibration):
        assert item is not None and item.images_in_training is None and item.people_in_training is None
    page = (made.path / "report.html").read_text(encoding="utf-8")
    assert "<strong>Unknown.</strong>" in page and page.count('<td><span lang="en">unknown</span>') == 6
    with pytest.raises(InputError, match="what this model learned from is unknown, so nobody can be left out"):
        evaluate(model, people, [], tmp_path / "no", EvaluateConfig(**options, unseen_only=True))
    import pyarrow.parquet as pq

    seen = pq.read_table(made.path / "scores.parquet")["seen"]
    assert seen.null_count == len(seen)


def test_of_weights_with_an_unknown_past_a_zero_is_unknown_and_a_find_is_a_find(tmp_path: Path, people: Path) -> None:
    model = write_model(tmp_path / "model", learned=people, complete=False)
    leaky = write_people(tmp_path / "leaky", split=lambda person: "calibration" if person < 10 else "test")
    found = audit(evaluate(model, leaky, [], tmp_path / "out", EvaluateConfig(**QUICK)).path)
    assert found.known == "part"
    assert found.sets["held-out"].people_in_training is None
    assert found.calibration is not None and found.calibration.people_in_training == 4


def test_people_that_the_model_learned_from_are_left_out_on_request(tmp_path: Path, people: Path) -> None:
    """Incumbent of other data against the candidate of this data: on the people that neither learned from."""
    other = write_people(tmp_path / "a", split=lambda person: "train" if person in {4, 5, 20, 21, 22} else "test")
    incumbent, candidate = write_model(tmp_path / "old", learned=other), write_model(tmp_path / "new", learned=people)
    config = EvaluateConfig(**QUICK)
    measured = evaluate(candidate, people, [], tmp_path / "candidate", config).path
    biased = evaluate(incumbent, people, [], tmp_path / "biased", config).path
    decision = compare(measured, biased).decision
    assert decision is not None and not decision.promote
    assert "the current model learned from 3 of the 14 held-out people" in decision.reasons[0]
    fair = evaluate(incumbent, people, [], tmp_path / "fair", EvaluateConfig(**QUICK, unseen_only=True)).path
    figures = read_metrics(fair)
    assert figures.audit is not None and figures.audit.left_out
    held_out = figures.sets["held-out"]
    assert held_out.all_pairs is not None and held_out.all_pairs.images == 11 * 6
    assert figures.calibration is not None and figures.calibration.subjects == 8
    found = compare(measured, fair)
    assert found.decision is not None and "fnmr" in found.sets["held-out"]
    said = " ".join(found.decision.reasons)
    assert "3 of the 14 held-out people are left out of the current model's figures" in said
    assert "2 of the 10 calibration people are left out" in said
    # The two networks are the same, so on the same pairs at nearly the same threshold they err alike.
    assert abs(found.sets["held-out"]["accuracy"].difference) < 0.1


def test_too_few_unknown_people_are_refused(tmp_path: Path, people: Path) -> None:
    other = write_people(tmp_path / "a", split=lambda person: "train" if person >= 14 else "test")
    model = write_model(tmp_path / "model", learned=other)
    with pytest.raises(InputError, match="learned from 14 of the 14 test people, and the 0 others are too few"):
        evaluate(model, people, [], tmp_path / "out", EvaluateConfig(**QUICK, unseen_only=True))
    assert not (tmp_path / "out").exists()


def test_benchmark_pairs_of_people_that_were_learned_from_are_not_compared(tmp_path: Path, people: Path) -> None:
    lfw = write_benchmark(tmp_path / "lfw")
    from eolgul.dataset import FaceDataset
    from eolgul.model.provenance import Provenance

    old, new = write_model(tmp_path / "old"), write_model(tmp_path / "new", seed=3)
    hashes = FaceDataset(lfw).arrow("sha256")
    for folder, chosen in ((old, hashes.slice(0, 40)), (new, hashes.slice(0, 0))):
        Provenance.of([], chosen, "e" * 64).write(folder)
    places = [
        evaluate(of, None, [lfw], tmp_path / f"e{of.name}", EvaluateConfig(resamples=20, threads=1)).path
        for of in (new, old)
    ]
    import pyarrow.parquet as pq

    tables = [pq.read_table(place / "scores.parquet").to_pydict() for place in places]
    assert sum(tables[1]["seen"]) == 20 and not any(tables[0]["seen"])
    kept = [not seen for seen in tables[1]["seen"]]
    wanted = [sum(c for c, k in zip(table["correct"], kept, strict=True) if k) / 40 for table in tables]
    found = compare(*places).sets["lfw"]["accuracy"]
    assert (found.candidate, found.current) == pytest.approx(tuple(wanted))


def test_a_promoted_package_keeps_what_it_learned_from(tmp_path: Path, people: Path, model: Path) -> None:
    from eolgul.model.provenance import Provenance
    from eolgul.promote.step import promote
    from eolgul.registry.store import model_uri

    # The hand-made model is no package of training; its card must list the file for it to travel.
    shutil.copytree(model, tmp_path / "model")
    made = evaluate(tmp_path / "model", people, [], tmp_path / "out", EvaluateConfig(**QUICK)).path
    done = promote(tmp_path / "model", made, str(tmp_path / "registry"))
    served = Provenance.read(Path(model_uri(str(tmp_path / "registry"), done.digest)))
    assert done.promoted and served is not None and served.complete
    assert "provenance.parquet" in open_artifact(tmp_path / "model").card["files"]


def test_the_pipeline_measures_the_current_model_on_people_it_has_not_learned_from(
    tmp_path: Path, people: Path
) -> None:
    """Production learned from three of the candidate's test people: evaluate_others leaves them out, promote says so."""
    from eolgul import steps
    from eolgul.steps import tasks

    registry, config = str(tmp_path / "registry"), EvaluateConfig(**QUICK)
    other = write_people(
        tmp_path / "a", split=lambda person: "train" if person in {20, 21, 22} else default_split(person)
    )
    old, new = write_model(tmp_path / "old", learned=other), write_model(tmp_path / "new", seed=3, learned=people)
    first = evaluate(old, other, [], tmp_path / "first", config).path
    assert steps.promote(str(old), str(first), registry)["promoted"]
    candidate = str(evaluate(new, people, [], tmp_path / "candidate", config).path)
    store = steps.Store(str(tmp_path / "workspace"))
    places = tasks.evaluate_others(store, candidate, str(people), [], registry, config, print)
    assert places[0].startswith(str(tmp_path / "workspace")) and places[1] == ""
    assert audit(steps.bring(places[0])).left_out
    made = steps.promote(str(new), candidate, registry, current_evaluation=places[0])
    assert (
        "3 of the 14 held-out people are left out of the current model's figures: it learned from them"
        in made["reason"]
    )
