"""Write `scores.parquet`: one row per compared pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from eolgul.dataset import FaceDataset
from eolgul.evaluate.metrics import ScoredSet
from eolgul.evaluate.protocol import accuracy
from eolgul.evaluation.reader import SCORES


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
