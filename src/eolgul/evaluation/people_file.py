"""`people.parquet`: the errors of the one threshold among all comparisons of the held-out people, by person and pair of people.

Two models' rates over the same people are far more alike than two intervals side by side suggest: who is easily taken for
another is so for both. The file lets two Evaluations be compared over all comparisons of the people they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from eolgul.errors import InputError

FILE = "people.parquet"
_SCHEMA = pa.schema(
    [
        pa.field("person", pa.string(), nullable=False),
        pa.field("other", pa.string()),  # null in the row of one person, which comes before those of the pairs
        pa.field("images", pa.int64()),  # of a person; null for a pair
        pa.field("errors", pa.int64(), nullable=False),  # refused comparisons of a person, accepted ones of a pair
        pa.field("seen", pa.bool_()),  # whether the model learned from this person; null where unknown, and for a pair
    ]
)


@dataclass(frozen=True, slots=True)
class PeopleErrors:
    """The errors among all comparisons of S people.

    `names`: of the people. `images`, `misses` (int64, S): their images and refused comparisons. `seen` (bool, S): whether
    the model is known to have learned from them. `left`, `right` (positions in `names`), `count` (int64): the pairs of people
    with comparisons that passed, and the number of those.
    """

    names: Sequence[str]
    images: NDArray[np.int64]
    misses: NDArray[np.int64]
    seen: NDArray[np.bool_]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    count: NDArray[np.int64]

    def among(self, chosen: Sequence[int]) -> dict[tuple[int, int], int]:
        """The comparisons of each pair of the chosen people (positions in `names`) that passed, by their numbers there."""
        place = np.full(len(self.names), -1, dtype=np.int64)
        place[np.asarray(chosen, np.int64)] = np.arange(len(chosen))
        left, right = place[self.left], place[self.right]
        both = (left >= 0) & (right >= 0)
        low, high = np.minimum(left, right)[both].tolist(), np.maximum(left, right)[both].tolist()
        return dict(zip(zip(low, high, strict=True), self.count[both].tolist(), strict=True))


def write_people(path: Path, errors: PeopleErrors, *, known: bool) -> None:
    """Write the file; `known` is whether `seen` says all that the model learned from, or its False may be True."""
    names = np.asarray(errors.names, dtype=object)
    people, pairs = len(names), len(errors.count)
    seen = [value if value or known else None for value in errors.seen.tolist()]
    columns = {
        "person": [*errors.names, *names[errors.left]],
        "other": [*[None] * people, *names[errors.right]],
        "images": [*errors.images.tolist(), *[None] * pairs],
        "errors": [*errors.misses.tolist(), *errors.count.tolist()],
        "seen": [*seen, *[None] * pairs],
    }
    pq.write_table(pa.table(columns, schema=_SCHEMA), path, compression="zstd")


def read_people(evaluation: Path) -> PeopleErrors:
    """Read the file of an Evaluation on the local disk.

    Raises:
        InputError: It is missing, malformed or of an older version.
    """
    file = evaluation / FILE
    try:
        table = pq.read_table(file, columns=_SCHEMA.names).combine_chunks()
        people = table.filter(pc.is_null(table["other"]))
        pairs = table.slice(len(people))
        names = people["person"].to_pylist()
        number = pa.array(names, pa.string())
        left, right = (np.asarray(pc.index_in(pairs[side], number), np.int64) for side in ("person", "other"))
        return PeopleErrors(
            names,
            np.asarray(people["images"], np.int64),
            np.asarray(people["errors"], np.int64),
            np.asarray(pc.fill_null(people["seen"], False), np.bool_),
            left,
            right,
            np.asarray(pairs["errors"], np.int64),
        )
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InputError(f"{file}: not the people of an evaluation by this version; evaluate again") from error
