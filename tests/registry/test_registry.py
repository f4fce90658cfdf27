"""Promotion: the better model wins, a worse one or a tie does not, and what is published is what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from eolgul import registry
from eolgul.artifact import open_artifact, seal, writing
from eolgul.errors import InputError
from eolgul.evaluate.files import SCORES
from eolgul.modelpackage import EmbeddingContract, ModelPackage

DATA = {"kind": "FaceDataset", "digest": "d" * 64}
OTHER_DATA = {"kind": "FaceDataset", "digest": "e" * 64}


def model(out: Path, seed: int, data: dict[str, str] = DATA) -> Path:
    projection = np.random.default_rng(seed).normal(size=(3 * 49, 16)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["images"], ["cells"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["cells"], ["flat"]),
        helper.make_node("MatMul", ["flat", "projection"], ["embeddings"]),
    ]
    graph = helper.make_graph(
        nodes,
        "cells",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(projection, "projection")],
    )
    with writing(out) as folder:
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
        )
        config = {"backbone": "cells", "embedding_size": 16, "contract": EmbeddingContract().to_json()}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "detector").mkdir()
        for name in ("pnet", "rnet", "onet"):
            (folder / "detector" / f"{name}.onnx").write_bytes(b"stand-in")
        seal(folder, "ModelPackage", step="train", recipe={"seed": seed}, inputs=[data], contents={}, synthetic=False)
    return out


def write_held_out_scores(file: Path, fnmr: float, people: int = 200) -> None:
    """One genuine pair a person, the first `fnmr` of them refused at 0.4, and two impostor pairs that are refused too."""
    refused = np.arange(people) < round(fnmr * people)
    table = {
        "set": ["held-out"] * (people + 2),
        "left": [f"l{n}" for n in range(people + 2)],
        "right": [f"r{n}" for n in range(people + 2)],
        "same": [True] * people + [False] * 2,
        "fold": np.arange(people + 2) % 10,
        "similarity": [*np.where(refused, 0.1, 0.9), 0.0, 0.1],
        "correct": [*~refused, True, True],
        "left_subject": [*range(people), 0, 1],
        "right_subject": [*range(people), 1, 2],
    }
    pq.write_table(pa.table(table, schema=SCORES), file)


def evaluation(out: Path, of: Path, *, fnmr: float, data: dict[str, str] = DATA, auc_low: float = 0.9) -> Path:
    held_out = {
        "digest": data["digest"],
        "auc": 0.95,
        "auc_interval": [auc_low, 0.97],
        "at_threshold": {"threshold": 0.4, "fnmr": fnmr, "fmr": 0.01},
        "all_pairs": {"fmr": 0.01, "fmr_interval": [0.005, 0.02]},
        "accuracy": {"mean": 0.9, "interval": [0.85, 0.95]},
    }
    metrics: dict[str, Any] = {
        "format": 1,
        "sets": {"held-out": held_out},
        "calibration": {"fmr_target": 0.01, "threshold": 0.4},
    }
    with writing(out) as folder:
        (folder / "metrics.json").write_text(json.dumps(metrics))
        (folder / "calibration.json").write_text(json.dumps({"threshold": 0.4, "for": out.name}))
        (folder / "report.html").write_text("<p>report</p>")
        write_held_out_scores(folder / "scores.parquet", fnmr)
        inputs = [open_artifact(of).reference, data]
        seal(folder, "Evaluation", step="evaluate", recipe={"fmr": 0.01}, inputs=inputs, contents={}, synthetic=True)
    return out


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "registry")
    return f"{request.getfixturevalue('s3')}/registry-{tmp_path.name}"


def history(place: str) -> list[dict[str, Any]]:
    from eolgul import storage

    return [json.loads(line) for line in (storage.read_bytes(storage.join(place, "history.jsonl")) or b"").splitlines()]


def test_first_better_worse_tie(place: str, tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", 1), model(tmp_path / "b", 2)
    first = registry.promote(a, evaluation(tmp_path / "ea", a, fnmr=0.2), place)
    assert first.promoted
    served = registry.download(place, first.digest)
    assert (served.path / "calibration.json").read_text() == json.dumps({"threshold": 0.4, "for": "ea"})
    assert (served.path / "model.onnx").read_bytes() == (a / "model.onnx").read_bytes()
    assert served.artifact.synthetic  # the evaluation was made on drawn people, and the package says so

    for fnmr in (0.3, 0.2):  # worse, and a tie
        kept = registry.promote(b, evaluation(tmp_path / f"eb{fnmr}", b, fnmr=fnmr), place)
        assert not kept.promoted
        assert any("not lower" in reason for reason in kept.reasons)
        production = registry.read_production(place)
        assert production is not None and production.digest == first.digest

    second = registry.promote(b, evaluation(tmp_path / "eb", b, fnmr=0.1), place)
    production = registry.read_production(place)
    assert second.promoted and production is not None
    assert (production.digest, production.previous) == (second.digest, first.digest)
    assert registry.download(place, first.digest).digest == first.digest  # the old one stays, to roll back to
    assert [entry["promoted"] for entry in history(place)] == [True, False, False, True]


def test_a_model_no_better_than_chance_is_not_even_the_first(tmp_path: Path) -> None:
    a = model(tmp_path / "a", 1)
    kept = registry.promote(a, evaluation(tmp_path / "ea", a, fnmr=0.9, auc_low=0.48), str(tmp_path / "registry"))
    assert not kept.promoted
    assert registry.read_production(str(tmp_path / "registry")) is None
    forced = registry.promote(a, tmp_path / "ea", str(tmp_path / "registry"), force=True)
    assert forced.promoted and "force" in forced.reasons[-1]


def test_figures_of_another_model_promote_nothing(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", 1), model(tmp_path / "b", 2)
    with pytest.raises(InputError, match="evaluates another model"):
        registry.promote(b, evaluation(tmp_path / "ea", a, fnmr=0.1), str(tmp_path / "registry"))
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize("force", [False, True])
def test_an_evaluation_without_a_threshold_promotes_nothing(tmp_path: Path, force: bool) -> None:
    """Benchmarks alone give no calibration, and serving would have no verdict to give: not even force helps."""
    a = model(tmp_path / "a", 1)
    place, measured = str(tmp_path / "registry"), evaluation(tmp_path / "ea", a, fnmr=0.1)
    (measured / "calibration.json").unlink()
    card = json.loads((measured / "evaluation.json").read_bytes())
    del card["files"]["calibration.json"]
    (measured / "evaluation.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"has no calibration\.json; evaluate with the dataset"):
        registry.promote(a, measured, place, force=force)
    assert not (tmp_path / "registry").exists()


def test_figures_from_other_data_are_not_compared(tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    a, b = model(tmp_path / "a", 1), model(tmp_path / "b", 2, OTHER_DATA)
    first = registry.promote(a, evaluation(tmp_path / "ea", a, fnmr=0.2), place)
    candidate = evaluation(tmp_path / "eb", b, fnmr=0.1, data=OTHER_DATA)
    assert registry.needs_current_evaluation(candidate, place)
    with pytest.raises(InputError, match="evaluated on other data"):
        registry.promote(b, candidate, place)
    production = registry.download(place, first.digest).path
    with pytest.raises(InputError, match="other data than"):
        wrong = evaluation(tmp_path / "wrong", production, fnmr=0.2)
        registry.promote(b, candidate, place, current_evaluation=wrong)
    with pytest.raises(InputError, match="another model than production"):
        registry.promote(b, candidate, place, current_evaluation=candidate)
    current = evaluation(tmp_path / "current", production, fnmr=0.05, data=OTHER_DATA)
    assert not registry.promote(b, candidate, place, current_evaluation=current).promoted
    current = evaluation(tmp_path / "current2", production, fnmr=0.15, data=OTHER_DATA)
    assert registry.promote(b, candidate, place, current_evaluation=current).promoted


def test_the_same_model_again_changes_nothing(tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    a = model(tmp_path / "a", 1)
    first = registry.promote(a, evaluation(tmp_path / "ea", a, fnmr=0.2), place)
    again = registry.promote(a, tmp_path / "ea", place)
    assert again.promoted and again.digest == first.digest
    assert len(history(place)) == 1


def test_a_model_that_was_changed_after_its_promotion_is_not_loaded(tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    a = model(tmp_path / "a", 1)
    first = registry.promote(a, evaluation(tmp_path / "ea", a, fnmr=0.2), place)
    weights = Path(registry.model_uri(place, first.digest)) / "model.onnx"
    data = bytearray(weights.read_bytes())
    data[200] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InputError, match=r"model\.onnx.*sha256"):
        registry.download(place, first.digest)


@pytest.mark.parametrize("pointer", [b"{", b"[]", b'{"digest": "../../etc"}', b'{"digest": 5, "promoted_at": ""}'])
def test_a_malformed_pointer_is_said(tmp_path: Path, pointer: bytes) -> None:
    (tmp_path / "production.json").write_bytes(pointer)
    with pytest.raises(InputError, match=r"production\.json"):
        registry.read_production(str(tmp_path))


def test_the_served_package_opens_and_its_digest_is_its_manifests(tmp_path: Path) -> None:
    import hashlib

    place = str(tmp_path / "registry")
    a = model(tmp_path / "a", 1)
    first = registry.promote(a, evaluation(tmp_path / "ea", a, fnmr=0.2), place)
    folder = Path(registry.model_uri(place, first.digest))
    assert hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest() == first.digest
    assert ModelPackage.open(folder).digest == first.digest


def test_a_model_measured_on_other_people_than_it_was_held_back_from_is_refused(tmp_path: Path) -> None:
    """Another split of the same people: its test people may be this model's training people."""
    a = model(tmp_path / "a", 1)
    with pytest.raises(InputError, match="another dataset than the model learned from"):
        registry.promote(a, evaluation(tmp_path / "ea", a, fnmr=0.1, data=OTHER_DATA), str(tmp_path / "registry"))
    assert not (tmp_path / "registry").exists()


def test_force_gets_past_a_broken_production_model(tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    a, b = model(tmp_path / "a", 1), model(tmp_path / "b", 2)
    first = registry.promote(a, evaluation(tmp_path / "ea", a, fnmr=0.2), place)
    (Path(registry.model_uri(place, first.digest)) / "model.onnx").unlink()
    candidate = evaluation(tmp_path / "eb", b, fnmr=0.3)
    with pytest.raises(InputError, match=r"model\.onnx"):
        registry.promote(b, candidate, place)
    assert registry.promote(b, candidate, place, force=True).promoted
