"""Small model packages and evaluations for tests of the registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from eolgul.artifact import open_artifact, seal, writing
from eolgul.evaluation.reader import SCORES
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


def history(place: str) -> list[dict[str, Any]]:
    from eolgul import storage

    return [json.loads(line) for line in (storage.read_bytes(storage.join(place, "history.jsonl")) or b"").splitlines()]
