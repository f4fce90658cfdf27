"""From a torch module to an ONNX file: the one place that exports, for the detector's networks and the recognizer's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OPSET = 17


def export(
    module: Any, example: Any, path: Path, outputs: Sequence[str], free: Mapping[str, Mapping[int, str]]
) -> None:
    """Write `module` (a torch module in eval mode) as ONNX with one input called "images".

    `example` is a tensor of that input, `free` names the axes that may have any length, by input or output name. The
    tracing exporter is used: it keeps the P-Net's free height and width, and needs no compiler.
    """
    import torch

    with warnings.catch_warnings():  # torch announces the tracing exporter's retirement at each call
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
