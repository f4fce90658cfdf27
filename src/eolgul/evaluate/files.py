"""What lies in an Evaluation folder, read and written: `metrics.json` and `scores.parquet`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.evaluate.metrics import ScoredSet
from eolgul.evaluate.protocol import accuracy

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


def write_scores(path: Path, sets: Sequence[ScoredSet], datasets: Sequence[FaceDataset]) -> None:
    """A row a pair of every set, in the set's own order."""
    with pq.ParquetWriter(path, SCORES, compression="zstd") as writer:
        for item, dataset in zip(sets, datasets, strict=True):
            ids = dataset.manifest["image_id"]
            columns: dict[str, NDArray[Any] | list[str] | list[None] | pa.ChunkedArray] = {
                "set": [item.name] * len(item.same),
                "left": ids.take(item.left),
                "right": ids.take(item.right),
                "same": item.same,
                "fold": item.fold,
                "similarity": item.similarity,
                "correct": accuracy(item.distance, item.same, item.fold).correct,
                "left_subject": _numbers(item, "left"),
                "right_subject": _numbers(item, "right"),
            }
            writer.write_table(pa.table(columns, schema=SCORES))


def _numbers(item: ScoredSet, side: str) -> NDArray[np.int32] | list[None]:
    if item.subjects is None:
        return [None] * len(item.same)
    numbers: NDArray[np.int64] = getattr(item.subjects, side)
    return numbers.astype(np.int32)
