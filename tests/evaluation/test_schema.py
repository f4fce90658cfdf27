"""`metrics.json` keeps its published schema, and the schema is tight enough to refuse what is not an evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.evaluation import write_benchmark

from eolgul.artifact import canonical_json
from eolgul.errors import InputError
from eolgul.evaluate.config import EvaluateConfig
from eolgul.evaluate.step import evaluate
from eolgul.evaluation.reader import read_metrics
from eolgul.evaluation.schema import FILE, SetLeakage, json_schema

VALIDATOR = jsonschema.Draft202012Validator(json.loads(FILE.read_bytes()))


def figures(evaluation: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((evaluation / "metrics.json").read_bytes())
    return loaded


def sets_in_training(evaluation: Path) -> dict[str, SetLeakage]:
    audit = read_metrics(evaluation).audit
    assert audit is not None
    return audit.sets


def test_the_published_file_is_what_the_models_say() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json.loads(FILE.read_bytes()) == json_schema()
    for name, part in json_schema()["$defs"].items():
        assert part["additionalProperties"] is False, name


def test_evaluations_are_valid(evaluation: Path, tmp_path: Path, model: Path) -> None:
    VALIDATOR.validate(figures(evaluation))
    alone = evaluate(
        model, None, [write_benchmark(tmp_path / "lfw")], tmp_path / "alone", EvaluateConfig(resamples=20, threads=1)
    )
    VALIDATOR.validate(figures(alone.path))


def test_reading_and_writing_gives_the_same_bytes(evaluation: Path) -> None:
    assert canonical_json(read_metrics(evaluation).to_json()) == (evaluation / "metrics.json").read_bytes()


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(metrics: dict[str, Any]) -> None:
        *steps, last = path.split(".")
        place: Any = metrics
        for step in steps:
            place = place[int(step) if isinstance(place, list) else step]
        assert last in place or value == "new"
        place[last] = value

    return change


CHANGES = {
    "a rate above 1": _set("sets.held-out.all_pairs.fmr", 1.5),
    "a negative count": _set("sets.lfw.pairs", -1),
    "a text for a number": _set("sets.lfw.auc", "0.9"),
    "a count with a fraction": _set("calibration.subjects", 2.5),
    "an interval of one number": _set("calibration.threshold_interval", [0.1]),
    "a new key": _set("sets.lfw.at_threshold.extra", "new"),
    "a new key at the top": _set("extra", "new"),
    "an unknown condition": _set("breakdown.weather", "new"),
    "a digest of another kind": _set("model.digest", "sha256:0"),
    "another format": _set("format", 2),
    "a missing figure": lambda metrics: metrics["sets"]["held-out"].pop("eer"),
    "no set": _set("sets", {}),
    "a missing audit": lambda metrics: metrics.pop("audit"),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_changed_file_is_refused(evaluation: Path, tmp_path: Path, how: str) -> None:
    changed = figures(evaluation)
    CHANGES[how](changed)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(changed)
    (tmp_path / "metrics.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match="format 1"):
        read_metrics(tmp_path)


def test_the_audit_counts_what_training_saw(evaluation: Path, tmp_path: Path, model: Path, people: Path) -> None:
    found = sets_in_training(evaluation)
    assert found["held-out"] == SetLeakage(images=84, people=14, images_in_training=0, people_in_training=0)
    assert found["lfw"] == SetLeakage(images=120, people=None, images_in_training=0, people_in_training=None)
    assert found["own"].people_in_training == 0
    # The same people again as a benchmark: 4 of them, with 6 pictures each, were trained on.
    from support.datasets import make_dataset

    from eolgul.dataset import FaceDataset

    source = FaceDataset(people)
    with make_dataset(tmp_path / "leaky", step="test", recipe={}, inputs=[], synthetic=True) as writer:
        for row in range(len(source)):
            writer.add(
                f"x{row:03}",
                source.column("identity")[row],
                source.read(row),
                extension="png",
                size=(112, 112),
                source="x",
            )
        same = [n // 2 % 2 == 0 for n in range(40)]
        left = [6 * (n % 14) for n in range(40)]
        writer.pairs(
            left,
            [at + (1 if kind else 6) for at, kind in zip(left, same, strict=True)],
            same,
            [n // 4 for n in range(40)],
        )
        writer.describe(aligned="arcface-112-v1", name="leaky", identities_known=True, pairs=40, pairs_lost=0)
    out = evaluate(
        model, people, [tmp_path / "leaky"], tmp_path / "out", EvaluateConfig(resamples=20, threads=1, quality_images=0)
    )
    leaky = sets_in_training(out.path)["leaky"]
    assert leaky == SetLeakage(images=168, people=28, images_in_training=24, people_in_training=4)
