"""Read what lies in an Evaluation folder: `metrics.json` and the columns of `scores.parquet`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from eolgul.errors import InputError

HELD_OUT = "held-out"
METRICS_FORMAT = 1
SCORES = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("left", pa.string(), nullable=False),
        pa.field("right", pa.string(), nullable=False),
        pa.field("same", pa.bool_(), nullable=False),
        pa.field("fold", pa.int32(), nullable=False),
        pa.field("similarity", pa.float64(), nullable=False),
        pa.field("correct", pa.bool_(), nullable=False),  # by the reference protocol, at its fold's threshold
        pa.field("left_subject", pa.int32()),  # numbers within the set, null where it does not say who its people are
        pa.field("right_subject", pa.int32()),
    ]
)


def read_metrics(evaluation: Path) -> dict[str, Any]:
    """The figures of an Evaluation on the local disk; InputError when the file is not JSON of this format."""
    file = evaluation / "metrics.json"
    if not file.is_file():
        raise InputError(f"{evaluation}: holds no metrics.json, expected an Evaluation")
    try:
        value: dict[str, Any] = json.loads(file.read_bytes())
        if value["format"] != METRICS_FORMAT:
            raise KeyError("format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not the metrics of an evaluation, format {METRICS_FORMAT}") from error
    return value
