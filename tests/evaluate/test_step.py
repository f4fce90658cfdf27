"""The whole step on the hand-made world: figures that a second computation confirms, and inputs that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from support.datasets import make_dataset
from support.evaluation import default_split, face, write_benchmark, write_model, write_people

from eolgul.artifact import open_artifact
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.evaluate.config import EvaluateConfig
from eolgul.evaluate.recognizers import open_model
from eolgul.evaluate.step import check_disjoint, evaluate
from eolgul.evaluation.compare import acceptable
from eolgul.evaluation.reader import read_metrics
from eolgul.evaluation.schema import CalibrationSummary
from eolgul.model.calibration import Calibration


def test_the_artifact_is_whole_and_says_what_made_it(evaluation: Path, model: Path, people: Path) -> None:
    artifact = open_artifact(evaluation, "Evaluation", check="sha256")
    assert set(artifact.card["files"]) == {
        "metrics.json",
        "scores.parquet",
        "people.parquet",
        "calibration.json",
        "report.html",
    }
    inputs = artifact.card["inputs"]
    assert inputs[0] == open_artifact(model).reference
    assert inputs[1] == open_artifact(people).reference
    assert len(inputs) == 4
    assert artifact.synthetic
    all_pairs = read_metrics(evaluation).sets["held-out"].all_pairs
    assert all_pairs is not None and artifact.contents["held_out"]["fnmr"] == all_pairs.fnmr


def test_figures_follow_from_the_scores(evaluation: Path) -> None:
    """Everything printed about a set is recomputed here from `scores.parquet` and the threshold alone."""
    metrics = read_metrics(evaluation)
    calibration = Calibration.from_json(json.loads((evaluation / "calibration.json").read_bytes()))
    assert metrics.to_json()["calibration"] == CalibrationSummary.model_validate(calibration.summary()).model_dump()
    table = pq.read_table(evaluation / "scores.parquet")
    names = np.asarray(table["set"].to_pylist())
    assert sorted(set(names)) == sorted(metrics.sets)
    for name, figures in metrics.sets.items():
        same = np.asarray(table["same"].to_pylist())[names == name]
        similarity = np.asarray(table["similarity"].to_pylist())[names == name]
        accepted = similarity >= calibration.threshold
        assert figures.pairs == len(same)
        at_threshold = figures.at_threshold
        assert at_threshold is not None and figures.auc is not None and figures.auc_interval is not None
        assert at_threshold.fmr == pytest.approx(np.mean(accepted[~same]), abs=1e-12)
        assert at_threshold.fnmr == pytest.approx(np.mean(~accepted[same]), abs=1e-12)
        assert at_threshold.accuracy == pytest.approx(np.mean(accepted == same), abs=1e-12)
        assert figures.auc == pytest.approx(roc_auc_score(same, similarity), abs=1e-12)
        low, high = figures.auc_interval
        assert low <= figures.auc <= high
        best = max(float(np.mean((similarity >= value) == same)) for value in [*similarity, 2.0])
        assert figures.best.accuracy == pytest.approx(best, abs=1e-12)
        for row in figures.fnmr_at_fmr:
            assert (row.fnmr is None) == (row.reason is not None)


def test_what_is_known_of_each_set(evaluation: Path) -> None:
    metrics = read_metrics(evaluation)
    held_out, lfw, own = (metrics.sets[name] for name in ("held-out", "lfw", "own"))
    assert (held_out.identities, held_out.folds, held_out.subject_pairs) == (14, 7, 7)
    assert held_out.all_pairs is not None and held_out.all_pairs.subject_pairs == 91
    assert (lfw.identities, lfw.interval.over) == (None, "pairs")
    assert (own.identities, own.interval.over) == (90, "subjects")
    assert held_out.acquisition.by_reason == {"no_face": 1}  # a duplicate is no failure to acquire
    assert lfw.acquisition.pairs_lost == 3
    reasons = [row.reason for row in held_out.fnmr_at_fmr]
    assert reasons[0] is None
    assert reasons[1] == "finer than 1 in 91 pairs of different people"
    assert acceptable(metrics).promote


def test_faces_not_found_count_as_refusals(evaluation: Path) -> None:
    """One held-out picture in 85 had no face, three of the benchmark's 63 pairs were lost."""
    sets = read_metrics(evaluation).sets
    for name, basis, missing in (("held-out", "images", 1 - (84 / 85) ** 2), ("lfw", "pairs", 3 / 63)):
        plain = sets[name].all_pairs or sets[name].at_threshold
        found = sets[name].generalized
        assert plain is not None and plain.fmr is not None and plain.fnmr is not None
        assert found is not None and found.gfrr is not None
        assert (found.basis, found.not_compared) == (basis, pytest.approx(missing, abs=1e-12))
        assert 1 - found.gfrr == pytest.approx((1 - missing) * (1 - plain.fnmr), abs=1e-12)
        assert found.gfar == pytest.approx((1 - missing) * plain.fmr, abs=1e-12)


def test_the_breakdown_counts_every_genuine_pair_of_a_condition(evaluation: Path) -> None:
    breakdown = read_metrics(evaluation).breakdown
    assert breakdown.model_fields_set == {"accessory", "camera", "expression", "light"}
    # Six images, two a camera: 15 pairs, of which the 6 among the other four images lack it.
    assert [(row.value, row.genuine) for row in breakdown.camera or []] == [(f"C{n}", 14 * 9) for n in (5, 6, 7)]


def test_made_once(tmp_path: Path, model: Path, people: Path) -> None:
    said: list[str] = []
    first = evaluate(
        model,
        people,
        [],
        tmp_path / "out",
        EvaluateConfig(resamples=20, threads=1, quality_images=0),
        progress=said.append,
    )
    again = evaluate(
        model,
        people,
        [],
        tmp_path / "out",
        EvaluateConfig(resamples=20, threads=1, quality_images=0),
        progress=said.append,
    )
    assert again == first
    assert said[-1].startswith("already evaluated")
    other = evaluate(
        model, people, [], tmp_path / "out", EvaluateConfig(resamples=20, threads=1, quality_images=0, fmr=0.1)
    )
    assert other.digest != first.digest
    assert other.contents["fmr_target"] == 0.1
    twin = evaluate(
        model, people, [], tmp_path / "twin", EvaluateConfig(resamples=20, threads=1, quality_images=0, fmr=0.1)
    )
    assert twin.digest == other.digest  # the same inputs give the same bytes, report and all


@pytest.mark.parametrize(("person", "split"), [(20, "train"), (6, "train"), (20, "calibration"), (20, "validation")])
def test_a_person_in_two_splits_is_refused(tmp_path: Path, model: Path, person: int, split: str) -> None:
    leaky = write_people(tmp_path / "leaky", images=2, twice=[(person, split)])
    with pytest.raises(InputError, match=rf"1 people .* \(p{person:02}\)"):
        evaluate(model, leaky, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_clean_dataset_passes(people: Path) -> None:
    check_disjoint(FaceDataset(people))


def test_a_blind_model_is_refused(tmp_path: Path, people: Path) -> None:
    with pytest.raises(InputError, match="ignores its input"):
        evaluate(write_model(tmp_path / "blind", blind=True), people, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_inputs_are_refused(tmp_path: Path, model: Path, people: Path) -> None:
    def refuse(match: str, **change: object) -> None:
        given = {
            "model": model,
            "dataset": people,
            "benchmarks": [],
            "out": tmp_path / "out",
            "config": EvaluateConfig(threads=1, resamples=20, quality_images=0),
        }
        with pytest.raises(InputError, match=match):
            evaluate(**(given | change))  # type: ignore[arg-type]
        assert not (tmp_path / "out").exists()

    refuse("expected a ModelPackage", model=people)
    refuse("expected a FaceDataset", dataset=model)
    refuse("no such artifact", dataset=tmp_path / "nowhere")
    refuse("not a benchmark", benchmarks=[people])
    with pytest.raises(InputError, match=r"fmr 0\.0: expected"):
        EvaluateConfig(fmr=0.0)
    one = write_benchmark(tmp_path / "one", name="x", pairs=20)
    two = write_benchmark(tmp_path / "two", name="x", pairs=20)
    refuse("two sets are named 'x'", benchmarks=[one, two])
    refuse("'held-out'", benchmarks=[write_benchmark(tmp_path / "three", name="held-out", pairs=20)])
    refuse("eolgul align", dataset=write_people(tmp_path / "raw", aligned=None, images=2))
    no_calibration = write_people(
        tmp_path / "none", images=2, split=lambda person: "train" if default_split(person) == "calibration" else "test"
    )
    refuse("calibration split", dataset=no_calibration)


def test_reading_metrics_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.json"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.json").write_text('{"format": 7}')
    with pytest.raises(InputError, match="format 1"):
        read_metrics(tmp_path)


def test_a_benchmark_of_one_fold_is_refused_before_any_embedding(model: Path, tmp_path: Path) -> None:
    with make_dataset(tmp_path / "one", step="test", recipe={}, inputs=[], synthetic=True) as writer:
        for number in range(4):
            data = face(number // 2, number)
            writer.add(f"p/{number}", "p", data, extension="png", size=(112, 112), source="one")
        writer.pairs([0, 0], [1, 2], [True, False], [0, 0])
        writer.describe(aligned="arcface-112-v1", name="one")
    seen: list[str] = []
    with pytest.raises(InputError, match="its 2 pairs are of 1 fold"):
        evaluate(model, None, [tmp_path / "one"], tmp_path / "out", EvaluateConfig(), progress=seen.append)
    assert seen == []


def test_only_rows_of_pairs_and_counts_are_embedded(
    model: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other held-out images, most of a large set, cost an embedding each and change no figure."""
    from eolgul.evaluate import pairs, step

    embedded: list[NDArray[np.int64]] = []
    embed = step.embed_rows

    def spy(dataset: FaceDataset, rows: NDArray[np.int64], *args: Any, **options: Any) -> NDArray[np.float32]:
        embedded.append(rows)
        return embed(dataset, rows, *args, **options)

    monkeypatch.setattr(step, "embed_rows", spy)
    monkeypatch.setattr(pairs, "MAX_PAIRS", 28)  # one genuine pair per person
    monkeypatch.setattr(step, "MAX_COUNTED", 40)
    dataset = FaceDataset(people)
    small = evaluate(model, people, [], tmp_path / "small", EvaluateConfig(fmr=0.1, resamples=50, quality_images=0))
    chosen = pairs.held_out_pairs(dataset)
    counted = pairs.calibration_rows(dataset, "test", most=40)
    needed = set(chosen.left.tolist()) | set(chosen.right.tolist()) | set(counted.tolist())
    assert set(embedded[1].tolist()) == needed < set(dataset.rows("test").tolist())
    whole = embed(dataset, dataset.rows("test"), open_model(model).recognizer(threads=1))
    at = np.searchsorted(dataset.rows("test"), [chosen.left, chosen.right])
    expected = np.einsum("nd,nd->n", whole[at[0]].astype(np.float64), whole[at[1]].astype(np.float64))
    scores = pq.read_table(small.path / "scores.parquet")
    np.testing.assert_allclose(scores["similarity"].to_numpy(), expected, atol=1e-6)
