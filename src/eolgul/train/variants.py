"""Write smaller and faster ONNX files beside model.onnx and measure their loss of accuracy on validation images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.model.recognizer import Recognizer
from eolgul.train.validate import Validation

VARIANTS = ("fp16", "int8")
_CALIBRATION = 128  # images whose activations give the int8 ranges
_BATCH = 32


def write_variants(folder: Path, names: Sequence[str], validation: Validation, scale: float) -> dict[str, Any]:
    """Write `model.<name>.onnx` for each of `names` and measure it beside model.onnx.

    fp16 keeps float32 inputs and outputs. int8 is static, per channel, with ranges from validation images; its figures are
    therefore slightly better than on other images.

    Args:
        folder: The package's folder, with model.onnx.
        names: Names of `VARIANTS`.
        validation: The images to measure on.
        scale: The training scale, for the validation loss.

    Returns:
        {name: {"file", "bytes", "least_cosine", "mean_cosine", "validation", "validation_fp32"}}. A cosine compares the two
        embeddings of one image; the figures are those of `Validation.measure`.
    """
    if not names:
        return {}
    exact = _embed(folder / "model.onnx", validation)
    measured = validation.measure(exact, scale)
    facts = {}
    for name in names:
        file = folder / f"model.{name}.onnx"
        (_to_fp16 if name == "fp16" else _to_int8)(folder / "model.onnx", file, validation)
        embeddings = _embed(file, validation)
        cosine = (embeddings * exact).sum(axis=1)
        facts[name] = {
            "file": file.name,
            "bytes": file.stat().st_size,
            "least_cosine": float(cosine.min()),
            "mean_cosine": float(cosine.mean()),
            "validation": validation.measure(embeddings, scale),
            "validation_fp32": measured,
        }
    return facts


def _embed(file: Path, validation: Validation) -> NDArray[np.float32]:
    """Embeddings of the validation images through ONNX Runtime, without their mirror images: N x D, rows of length 1."""
    recognizer = Recognizer(file, replace(validation.contract, flip="none"))
    slices = _slices(validation.rows)
    return np.concatenate([recognizer.embed(validation.faces(rows)) for rows in slices])


def _slices(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for begin in range(0, len(rows), _BATCH):
        yield rows[begin : begin + _BATCH]


def _to_fp16(source: Path, target: Path, validation: Validation) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


@contextmanager
def _only_errors() -> Iterator[None]:
    """Keep warnings out of the log, for a library that logs to the root; afterwards all is logged as before."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(max(before, logging.ERROR))
    try:
        yield
    finally:
        root.setLevel(before)


def _to_int8(source: Path, target: Path, validation: Validation) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    chosen = validation.rows[:: max(1, len(validation.rows) // _CALIBRATION)]

    class Reader:
        """Gives ONNX Runtime's calibration one feed after another, and None at the end."""

        def __init__(self) -> None:
            self._feeds = ({"images": validation.inputs(rows)} for rows in _slices(chosen))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self._feeds, None)

    with _only_errors():  # it advises a step that the export has done
        quantize_static(
            str(source),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add"],
        )
