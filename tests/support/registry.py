"""Small model packages and evaluations for tests of the registry."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from eolgul.artifact import open_artifact, seal, writing
from eolgul.evaluation import schema
from eolgul.evaluation.people_file import FILE as PEOPLE_FILE
from eolgul.evaluation.people_file import PeopleErrors, write_people
from eolgul.evaluation.scores_file import SCORES
from eolgul.model.package import EmbeddingContract

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
        seal(
            folder,
            "ModelPackage",
            step="train",
            version=1,
            recipe={"seed": seed},
            inputs=[data],
            contents={},
            synthetic=False,
        )
    return out


def write_held_out_scores(file: Path, fnmr: float, people: int = 200) -> None:
    """One genuine pair per person, a share `fnmr` of them refused at 0.4, and two impostor pairs that are refused too."""
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
        "seen": [None] * (people + 2),
    }
    pq.write_table(pa.table(table, schema=SCORES), file)


def write_held_out_people(file: Path, fnmr: float, people: int = 200) -> None:
    """Two images per person, a share `fnmr` of them refused, and 796 pairs of neighbouring people with a false match."""
    pairs = np.array([(one, one + step) for step in range(1, 5) for one in range(people - 1)])[:796] % people
    pairs.sort(axis=1)
    misses = (np.arange(people) < round(fnmr * people)).astype(np.int64)
    errors = PeopleErrors([f"p{n}" for n in range(people)], np.full(people, 2), misses, np.zeros(people, np.bool_),
                          pairs[:, 0], pairs[:, 1], np.ones(len(pairs), np.int64))  # fmt: skip
    write_people(file, errors, known=False)


def held_out_figures(digest: str, *, fnmr: float, auc_low: float) -> schema.SetFigures:
    """Figures of 200 people at the threshold 0.4."""
    return schema.SetFigures(
        name="held-out",
        kind="held-out",
        digest=digest,
        synthetic=True,
        pairs=202,
        genuine=200,
        impostor=2,
        folds=10,
        identities=200,
        subject_pairs=2,
        accuracy=schema.Accuracy(
            mean=0.9, std=0.01, interval=(0.85, 0.95), folds=[0.9] * 10, distance_thresholds=[1.2] * 10
        ),
        tar_at_far=schema.TarAtFar(target=1e-3, tar=None, std=None, far=None, reason="a fold lacks impostor pairs"),
        auc=0.95,
        auc_interval=(auc_low, 0.97),
        eer=0.1,
        cllr=schema.Cllr(carried=0.3, min=0.2),
        at_threshold=schema.AtThreshold(
            threshold=0.4,
            fmr=0.01,
            fmr_interval=(0.005, 0.02),
            false_matches=0,
            fnmr=fnmr,
            fnmr_interval=None,
            false_non_matches=round(200 * fnmr),
            accuracy=0.9,
            accuracy_interval=None,
        ),
        best=schema.Best(threshold=0.4, accuracy=0.9, fmr=0.01, fnmr=fnmr),
        fnmr_at_fmr=[],
        all_pairs=schema.AllPairs(
            images=400,
            genuine=200,
            impostor=79600,
            subject_pairs=19900,
            fmr=0.01,
            fmr_interval=(0.005, 0.02),
            false_matches=796,
            fnmr=fnmr,
            fnmr_interval=None,
            false_non_matches=round(200 * fnmr),
        ),
        interval=schema.IntervalMethod(level=0.95, over="subjects", resamples=1000),
        acquisition=schema.Acquisition(images=400, failed=0, rate=0.0, by_reason={}, pairs_lost=None),
        generalized=None,
    )


def metrics(of: Path, held_out: schema.SetFigures) -> schema.Metrics:
    """Figures of the model `of`, calibrated at 0.4 for a false match rate of 0.01."""
    return schema.Metrics(
        format=1,
        synthetic=True,
        model=schema.MeasuredModel(
            digest=open_artifact(of).digest,
            kind="ModelPackage",
            backbone="cells",
            embedding_size=16,
            contract=schema.Contract.model_validate(EmbeddingContract().to_json()),
        ),
        dataset=None,
        options=schema.EvaluationOptions(fmr=0.01, seed=0, pictures=False, resamples=1000),
        calibration=schema.CalibrationSummary(
            threshold=0.4,
            threshold_interval=(0.35, 0.45),
            fmr_requested=0.01,
            fmr_target=0.01,
            fmr_basis="requested",
            fmr_floor=1e-4,
            fmr_observed=0.01,
            fmr_upper=0.02,
            fnmr_observed=0.1,
            subjects=200,
            genuine_pairs=200,
            impostor_pairs=79600,
            subject_pairs=19900,
            resamples=1000,
            llr=None,
        ),
        sets={"held-out": held_out},
        breakdown=schema.Breakdown(),
        groups=[],
        quality={},
        audit=None,
        worst=schema.Worst(genuine=[], impostor=[]),
        published=None,
    )


def evaluation(out: Path, of: Path, *, fnmr: float, data: dict[str, str] = DATA, auc_low: float = 0.9) -> Path:
    figures = held_out_figures(data["digest"], fnmr=fnmr, auc_low=auc_low)
    with writing(out) as folder:
        (folder / "metrics.json").write_text(json.dumps(metrics(of, figures).to_json()))
        (folder / "calibration.json").write_text(json.dumps({"threshold": 0.4, "for": out.name}))
        (folder / "report.html").write_text("<p>report</p>")
        write_held_out_scores(folder / "scores.parquet", fnmr)
        write_held_out_people(folder / PEOPLE_FILE, fnmr)
        inputs = [open_artifact(of).reference, data]
        seal(
            folder,
            "Evaluation",
            step="evaluate",
            version=1,
            recipe={"fmr": 0.01},
            inputs=inputs,
            contents={},
            synthetic=True,
        )
    return out


def audited(evaluation: Path, *, people_in_training: int | None, known: str = "all", left_out: bool = False) -> None:
    """Let an evaluation say how many of its 200 held-out people its model learned from."""
    figures = json.loads((evaluation / "metrics.json").read_bytes())
    overlap = {"images": 400, "people": 200, "images_in_training": 0, "people_in_training": people_in_training}
    figures["audit"] = {
        "known": known,
        "people_sharing_images": None,
        "left_out": left_out,
        "sets": {"held-out": overlap},
        "calibration": None,
    }
    (evaluation / "metrics.json").write_text(json.dumps(figures))
    _reseal(evaluation)


def benchmarked(folder: Path, of: Path, *, fnmr: float, wrong: int, pairs: int = 200) -> Path:
    """An evaluation `e<number>` of the model `m<number>`, with a benchmark of which so many pairs are judged wrongly."""
    out = evaluation(folder / of.name.replace("m", "e"), of, fnmr=fnmr)
    figures = json.loads((out / "metrics.json").read_bytes())
    lfw = json.loads(json.dumps(figures["sets"]["held-out"])) | {
        "name": "lfw", "kind": "benchmark", "digest": "f" * 64, "all_pairs": None,
    }  # fmt: skip
    figures["sets"]["lfw"] = lfw
    table = {
        "set": ["lfw"] * pairs,
        "left": [f"a{n}" for n in range(pairs)],
        "right": [f"b{n}" for n in range(pairs)],
        "same": [n % 2 == 0 for n in range(pairs)],
        "fold": [n % 10 for n in range(pairs)],
        "similarity": [0.9 if n % 2 == 0 else 0.1 for n in range(pairs)],
        "correct": [n >= wrong for n in range(pairs)],
        "left_subject": [None] * pairs,
        "right_subject": [None] * pairs,
        "seen": [None] * pairs,
    }
    both = pa.concat_tables([pq.read_table(out / "scores.parquet"), pa.table(table, schema=SCORES)])
    pq.write_table(both, out / "scores.parquet")
    (out / "metrics.json").write_text(json.dumps(figures))
    _reseal(out)
    return out


def _reseal(evaluation: Path) -> None:
    """Write the changed files' sizes and digests into the card."""
    card = json.loads((evaluation / "evaluation.json").read_bytes())
    for name in card["files"]:
        data = (evaluation / name).read_bytes()
        card["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (evaluation / "evaluation.json").write_text(json.dumps(card))


def history(place: str) -> list[dict[str, Any]]:
    from eolgul import storage

    return [json.loads(line) for line in (storage.read_bytes(storage.join(place, "history.jsonl")) or b"").splitlines()]
