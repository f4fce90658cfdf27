"""Export a torch module to ONNX: both the detector's networks and the recognizer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OPSET = 17


def export(
    module: Any, example: Any, path: Path, outputs: Sequence[str], free: Mapping[str, Mapping[int, str]]
) -> None:
    """Write a module as ONNX, with one input called "images".

    The tracing exporter is used: it keeps the P-Net's free height and width, and needs no compiler.

    Args:
        module: A torch module in eval mode.
        example: A tensor of the input's shape.
        path: The file to write.
        outputs: Names of the outputs.
        free: Axes of any length, by the name of the input or output.
    """
    import torch

    with warnings.catch_warnings():  # torch warns at each call that the tracing exporter will be removed
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module,
            (example,),
            str(path),
            input_names=["images"],
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in free.items()},
            opset_version=OPSET,
            dynamo=False,
        )
