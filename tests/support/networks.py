"""Small ONNX recognizers in the forms in which people hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, PATCH = 112, 16
CELLS = 3 * (SIZE // PATCH) ** 2


def projection(dimensions: int, seed: int = 0) -> np.ndarray:
    """The fixed matrix from 147 patch means (3 channels x 7 x 7) to the embedding."""
    return (np.random.default_rng(seed).normal(size=(CELLS, dimensions)) / np.sqrt(dimensions)).astype(np.float32)


def patches(
    file: Path,
    *,
    batch: int | str = "n",
    hidden: int | None = None,
    extra: tuple[str, ...] = (),
    dimensions: int = 32,
    sides: tuple[Any, ...] = (SIZE, SIZE),
    half: bool = False,
    double: bool = False,
    channels_last: bool = False,
    opset: int = 17,
    external: bool = False,
) -> Path:
    """Write a recognizer: means of patches minus the face's mean, then a projection.

    Args:
        file: Where it goes.
        batch: The declared batch size, or the axis' name.
        hidden: A batch size that a reshape inside has fixed, whatever the input declares.
        extra: More outputs: "norm" (N x 1), "score" (N), "features" (N x 147), "map" (N x 3 x 7 x 7).
        dimensions: The length of the embedding.
        sides: The declared height and width.
        half: Input and outputs are float16.
        double: They are float64.
        channels_last: The input is N x 112 x 112 x 3.
        opset: The version of the operators that the file states.
        external: The weights lie in `<file>.data`.
    """
    kind = TensorProto.FLOAT16 if half else TensorProto.DOUBLE if double else TensorProto.FLOAT
    shape = [batch, *sides, 3] if channels_last else [batch, 3, *sides]
    nodes = [helper.make_node("Cast", ["faces"], ["pixels"], to=TensorProto.FLOAT)]
    picture = "pixels"
    if channels_last:
        nodes.append(helper.make_node("Transpose", ["pixels"], ["turned"], perm=[0, 3, 1, 2]))
        picture = "turned"
    nodes += [
        helper.make_node("AveragePool", [picture], ["map"], kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH]),
        helper.make_node("Reshape", ["map", "shape"], ["features"]),
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["features", "mean"], ["centred"]),
        helper.make_node("MatMul", ["centred", "projection"], ["wide"]),
        helper.make_node("ReduceL2", ["wide"], ["norm"], axes=[1], keepdims=1),
        helper.make_node("ReduceL2", ["wide"], ["score"], axes=[1], keepdims=0),
        helper.make_node("Cast", ["wide"], ["embeddings"], to=kind),
    ]
    shapes = {"norm": [batch, 1], "score": [batch], "features": [batch, CELLS], "map": [batch, 3, 7, 7]}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in extra]
    graph = helper.make_graph(
        nodes,
        "patches",
        [helper.make_tensor_value_info("faces", kind, shape)],
        [*outputs, helper.make_tensor_value_info("embeddings", kind, [batch, dimensions])],
        [
            numpy_helper.from_array(projection(dimensions), "projection"),
            numpy_helper.from_array(np.array([hidden or 0, CELLS], np.int64), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    if external:
        onnx.save(model, file, save_as_external_data=True, location=f"{file.name}.data", size_threshold=100)
    else:
        onnx.save(model, file)
    return file


def expected(faces: np.ndarray, dimensions: int = 32, *, bgr: bool = False, flip: bool = False) -> np.ndarray:
    """The embeddings that `patches` gives under a contract with (pixel - 127.5) / 127.5, computed without ONNX Runtime."""
    ordered = faces[..., ::-1] if bgr else faces
    x = ((ordered.astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2)

    def run(pixels: np.ndarray) -> np.ndarray:
        cells = pixels.reshape(len(pixels), 3, 7, PATCH, 7, PATCH).mean((3, 5)).reshape(len(pixels), -1)
        return np.asarray((cells - cells.mean(1, keepdims=True)) @ projection(dimensions))

    embeddings = run(x) + run(x[..., ::-1]) if flip else run(x)
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
