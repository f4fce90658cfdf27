"""A tiny model package for the tests: real detector, real calibration format, a recognizer of averaged patches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from eolgul.artifact import seal
from eolgul.model.calibration import Calibration
from eolgul.model.package import EmbeddingContract, ModelPackage
from eolgul.model.region import Region

SIZE, PATCH, EMBEDDING = 112, 16, 512
# The drawn people have a detail of 7 and more; blurred by 5 pixels, of 1.3 and less.
REGION = Region({"detail": (2.2, None), "cut": (None, 0.35), "brightness": (20.0, None)}, 0.002, 0.0, 100, 50)


def projection(seed: int) -> np.ndarray:
    """The fixed matrix behind the tiny recognizer: 147 patch means (3 channels x 7 x 7) → 512."""
    cells = 3 * (SIZE // PATCH) ** 2
    return (np.random.default_rng(seed).normal(size=(cells, EMBEDDING)) / np.sqrt(EMBEDDING)).astype(np.float32)


def recognizer(seed: int) -> onnx.ModelProto:
    """patch means minus the face's mean → projection: it sees colour order, position and light, and nothing else."""
    nodes = [
        helper.make_node("AveragePool", ["faces"], ["patches"], kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH]),
        helper.make_node("Flatten", ["patches"], ["cells"]),
        helper.make_node("ReduceMean", ["cells"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["cells", "mean"], ["centred"]),
        helper.make_node("MatMul", ["centred", "projection"], ["embeddings"]),
    ]
    graph = helper.make_graph(
        nodes,
        "patches",
        [helper.make_tensor_value_info("faces", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["n", EMBEDDING])],
        [numpy_helper.from_array(projection(seed), "projection")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def calibration(threshold: float, region: Region | None = None) -> Calibration:
    """A calibration whose table falls from 1 to its floor of 1 / 1225 around the threshold."""
    similarity = tuple(float(value) for value in np.linspace(-1, 1, 201))
    fmr = tuple(float(value) for value in 1 / (1 + np.exp((np.array(similarity) - threshold + 0.2) * 25)))
    return Calibration(
        threshold=threshold,
        threshold_interval=(threshold - 0.02, threshold + 0.02),
        fmr_requested=0.001,
        fmr_target=0.001,
        fmr_basis="requested",
        fmr_floor=1 / 1225,
        fmr_observed=0.001,
        fmr_upper=0.003,
        fnmr_observed=0.1,
        subjects=50,
        genuine_pairs=500,
        impostor_pairs=10000,
        subject_pairs=1225,
        resamples=1000,
        table_similarity=similarity,
        table_fmr=fmr,
        table_fmr_low=tuple(value / 2 for value in fmr),
        table_fmr_high=tuple(max(3 / 1225, min(1.0, value * 2)) for value in fmr),
        histogram_genuine=(0,) * 90 + (50,) * 10,
        histogram_impostor=(0,) * 40 + (200,) * 50 + (0,) * 10,
        region=region,
    )


def write(
    out: Path,
    detector: Path,
    *,
    seed: int = 0,
    threshold: float = 0.9,
    calibrated: bool = True,
    contract: EmbeddingContract | None = None,
    region: Region | None = None,
) -> ModelPackage:
    """Write the package; `detector` is a folder that `export_onnx` made. Without a `region` it is as older versions wrote it."""
    (out / "detector").mkdir(parents=True)
    for network in detector.glob("*.onnx"):
        (out / "detector" / network.name).write_bytes(network.read_bytes())
    onnx.save(recognizer(seed), out / "model.onnx")
    config = {
        "backbone": "patches",
        "embedding_size": EMBEDDING,
        "contract": (contract or EmbeddingContract()).to_json(),
    }
    (out / "config.json").write_text(json.dumps(config))
    if calibrated:
        (out / "calibration.json").write_text(json.dumps(calibration(threshold, region).to_json()))
        (out / "evaluation").mkdir()
        (out / "evaluation" / "report.html").write_text(
            "<!doctype html><title>report</title><p>the report of the test</p>"
        )
    seal(out, "ModelPackage", step="test", version=1, recipe={"seed": seed}, inputs=[], contents={}, synthetic=True)
    return ModelPackage.open(out)
