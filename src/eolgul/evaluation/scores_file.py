"""The columns of `scores.parquet` (one row per compared pair), and how to read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eolgul.errors import InputError

SCORES = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("left", pa.string(), nullable=False),  # image ids
        pa.field("right", pa.string(), nullable=False),
        pa.field("same", pa.bool_(), nullable=False),
        pa.field("fold", pa.int32(), nullable=False),
        pa.field("similarity", pa.float64(), nullable=False),
        pa.field("correct", pa.bool_(), nullable=False),  # by the reference protocol, at its fold's threshold
        pa.field("left_subject", pa.int32()),  # numbers within the set; null where the set does not identify its people
        pa.field("right_subject", pa.int32()),
        pa.field("seen", pa.bool_()),  # whether the model learned from a person of the pair; null where that is unknown
    ]
)


def read_scores(evaluation: Path) -> dict[str, pa.Table]:
    """Read the scores of an Evaluation on the local disk: {set: table}, in the order of the file.

    Raises:
        InputError: `scores.parquet` is missing, malformed or of an older version.
    """
    file = evaluation / "scores.parquet"
    try:
        table = pq.read_table(file, columns=SCORES.names).combine_chunks()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: not the scores of an evaluation by this version; evaluate again") from error
    names = np.asarray(table["set"].to_pylist(), dtype=object)
    return {name: table.filter(pa.array(names == name)) for name in dict.fromkeys(names)}
