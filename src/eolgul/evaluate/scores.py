"""Write `scores.parquet`, one row per compared pair, and `people.parquet`, the errors of the held-out people."""

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
from eolgul.evaluation import people_file
from eolgul.evaluation.people_file import PeopleErrors
from eolgul.evaluation.scores_file import SCORES


def write_scores(
    path: Path,
    sets: Sequence[ScoredSet],
    datasets: Sequence[FaceDataset],
    seen: Sequence[NDArray[np.bool_] | None],
) -> None:
    """Write the rows of every set in the set's own order.

    Args:
        path: The file.
        sets: The scored sets.
        datasets: The dataset of each.
        seen: Per set, whether the model learned from a person of each pair; None where that is unknown.
    """
    with pq.ParquetWriter(path, SCORES, compression="zstd") as writer:
        for scored, dataset, learned in zip(sets, datasets, seen, strict=True):
            _, correct = accuracy(scored.distance, scored.same, scored.fold)
            columns: dict[str, NDArray[Any] | list[str] | list[None] | pa.ChunkedArray] = {
                "set": [scored.name] * len(scored.same),
                "left": dataset.take(["image_id"], scored.left)["image_id"],
                "right": dataset.take(["image_id"], scored.right)["image_id"],
                "same": scored.same,
                "fold": scored.fold,
                "similarity": scored.similarity,
                "correct": correct,
                "left_subject": _numbers(scored, "left"),
                "right_subject": _numbers(scored, "right"),
                "seen": [None] * len(scored.same) if learned is None else learned,
            }
            writer.write_table(pa.table(columns, schema=SCORES))


def write_people(path: Path, scored: ScoredSet, seen: NDArray[np.bool_] | None) -> None:
    """Write the errors among all comparisons of the held-out people.

    Args:
        path: The file.
        scored: The set, with `all_pairs` and `people`.
        seen: Whether the model learned from each of the people; None where that is unknown.
    """
    assert scored.all_pairs is not None
    errors = scored.all_pairs.errors
    known = np.zeros(errors.subjects, np.bool_) if seen is None else seen
    people = PeopleErrors(scored.people, errors.images, errors.misses, known, errors.left, errors.right, errors.count)
    people_file.write_people(path, people, known=seen is not None)


def _numbers(scored: ScoredSet, side: str) -> NDArray[np.int32] | list[None]:
    if scored.subjects is None:
        return [None] * len(scored.same)
    numbers: NDArray[np.int64] = getattr(scored.subjects, side)
    return numbers.astype(np.int32)
