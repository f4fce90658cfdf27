"""Read a FaceDataset: the manifest by columns, an image as one positioned read.

Memory: from the first image on, an open dataset holds 13 to 20 bytes per row (shard, offset, size); every other column is
read from the manifest when it is asked for and not kept. A process has at most 256 shards open, whatever the number of datasets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from eolgul.artifact import Artifact, open_artifact
from eolgul.dataset.far import FarShards
from eolgul.dataset.handles import ShardFiles
from eolgul.dataset.schema import PAIRS, SCHEMA, SHARDS, SPLITS, Pairs
from eolgul.errors import InputError

_MOST_AHEAD = 1 << 14
_BATCH = 1 << 16  # rows of a column that are decoded at once


@contextmanager
def _parquet(file: Path) -> Iterator[None]:
    """Turn the errors of reading a Parquet file into one sentence."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: not a readable Parquet file ({str(error).splitlines()[0]})") from error


def joined_ranges(begins: NDArray[np.int64], ends: NDArray[np.int64], gap: int = 1 << 16) -> list[tuple[int, int]]:
    """Join byte ranges of one file into few: (begin, end) of each, ascending; a gap of at most `gap` bytes is read, too."""
    order = np.argsort(begins)
    begins, ends = begins[order], np.maximum.accumulate(ends[order])
    new = np.flatnonzero(begins[1:] - ends[:-1] > gap) + 1
    first, last = np.append(0, new), np.append(new, len(begins)) - 1
    return list(zip(begins[first].tolist(), ends[last].tolist(), strict=True))


def _read_table(file: Path) -> pa.Table:
    with _parquet(file):
        return pq.read_table(file)


class FaceDataset:
    """A FaceDataset opened for reading. Rows are those of the manifest; threads can share it, processes by pickling."""

    def __init__(
        self, path: Path, *, check: str = "size", images: bool = True, shards: FarShards | None = None
    ) -> None:
        """Open the dataset at `path`.

        Args:
            path: its folder.
            check: as `open_artifact` takes it.
            images: with false, the shards may be missing, as in a copy that has only the tables; then `read` fails.
            shards: the shards in S3, where the folder has only the tables.

        Raises:
            InputError: when it is not a whole FaceDataset, checked as `open_artifact` does with `check`.
        """
        here = images and shards is None
        self.artifact: Artifact = open_artifact(path, "FaceDataset", check=check, without=() if here else (SHARDS,))
        self.path = path
        if shards is not None:
            self._check_sizes(shards.sizes())
        self._manifest = path / "manifest.parquet"
        with _parquet(self._manifest), pq.ParquetFile(self._manifest) as file:
            groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            missing = set(SCHEMA.names) - set(file.schema_arrow.names)
        if missing:
            raise InputError(f"{self._manifest}: lacks the columns {sorted(missing)}")
        self._ends = np.cumsum(groups, dtype=np.int64)
        self._rows: int = sum(groups)
        if self._rows != self.artifact.contents["images"]:
            raise InputError(f"{self._manifest}: {self._rows} rows, the card says {self.artifact.contents['images']}")
        self._places: tuple[list[str], NDArray[Any], NDArray[np.int64], NDArray[Any]] | None = None
        self._files = shards or ShardFiles(path / SHARDS)
        self._ahead: dict[int, Future[bytes]] = {}

    def __len__(self) -> int:
        """The number of images."""
        return self._rows

    def locate(self) -> tuple[list[str], NDArray[Any], NDArray[np.int64], NDArray[Any]]:
        """Read where each image lies, as the first `read` does; before a fork, so that processes share the memory.

        Returns:
            The names of the shards, and per row the shard's number, the offset (int64) and the size of the image.
        """
        if self._places is None:
            names, shard = self.codes("shard")
            shard = shard.astype(np.min_scalar_type(max(len(names) - 1, 0)))
            self._places = names, shard, self._fill("offset", np.int64), self._narrow_sizes()
        return self._places

    def _narrow_sizes(self) -> NDArray[Any]:
        sizes = self._fill("size", np.int64)
        return sizes.astype(np.int32) if not len(sizes) or sizes.max() < 2**31 else sizes

    def batches(self, names: Sequence[str], *, dictionaries: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        """The manifest's rows in order, some thousands at a time, of the columns `names`; some as dictionaries."""
        # Without a buffer ahead, which would hold the column of the whole file.
        how = {"memory_map": True, "pre_buffer": False, "read_dictionary": list(dictionaries)}
        with _parquet(self._manifest), pq.ParquetFile(self._manifest, **how) as file:
            yield from file.iter_batches(batch_size=_BATCH, columns=list(names), use_threads=False)

    def table(self, names: Sequence[str] = SCHEMA.names, rows: range | None = None) -> pa.Table:
        """Columns of the manifest, of all rows or of a range of them (step 1)."""
        with _parquet(self._manifest), pq.ParquetFile(self._manifest, memory_map=True, pre_buffer=False) as file:
            if rows is None:
                return file.read(columns=list(names), use_threads=False)
            if not rows:
                return file.schema_arrow.empty_table().select(list(names))
            first, last = (int(np.searchsorted(self._ends, row, side="right")) for row in (rows[0], rows[-1]))
            table = file.read_row_groups(range(first, last + 1), columns=list(names), use_threads=False)
            return table.slice(rows[0] - (int(self._ends[first - 1]) if first else 0), len(rows))

    def arrow(self, name: str) -> pa.ChunkedArray:
        """A manifest column as Arrow has it."""
        return self.table([name])[name]

    def column(self, name: str) -> list[Any]:
        """A manifest column as Python values; None where a fact is unknown. Some 50 bytes per row and more."""
        values: list[Any] = self.arrow(name).to_pylist()
        return values

    def numpy(self, name: str) -> NDArray[Any]:
        """A manifest column without unknown values as an array of one value per row."""
        return np.asarray(self.arrow(name).to_numpy())

    def take(self, names: Sequence[str], rows: Sequence[int] | NDArray[np.integer]) -> pa.Table:
        """Columns of the manifest, of some rows in their order; only the row groups that have them are read."""
        wanted, back = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        borders = np.searchsorted(wanted, self._ends)  # where the rows of each row group end among the wanted ones
        parts, begin = [], 0
        with _parquet(self._manifest), pq.ParquetFile(self._manifest, memory_map=True, pre_buffer=False) as file:
            for group in np.flatnonzero(np.diff(borders, prepend=0)).tolist():
                own = wanted[begin : borders[group]] - (self._ends[group - 1] if group else 0)
                table = file.read_row_group(group, columns=list(names), use_threads=False)
                parts.append(table.take(pa.array(own)).select(list(names)))
                begin = borders[group]
            found = pa.concat_tables(parts) if parts else file.schema_arrow.empty_table().select(list(names))
        return found.take(pa.array(back))

    def values(self, name: str, rows: Sequence[int] | NDArray[np.integer]) -> list[Any]:
        """A manifest column of some rows, in their order, as Python values; None where a fact is unknown."""
        values: list[Any] = self.take([name], rows)[name].to_pylist()
        return values

    def codes(self, name: str) -> tuple[list[str], NDArray[np.int32]]:
        """A column of strings as its different values, in the order in which they first appear, and one number per row.

        Returns:
            The values, and int32 numbers of them, one per row; -1 where the value is unknown.
        """
        numbers: dict[str, int] = {}
        codes = np.empty(len(self), np.int32)
        place = 0
        for batch in self.batches([name], dictionaries=[name]):
            column = batch.column(0)
            indices = np.asarray(column.indices.fill_null(len(column.dictionary)))
            own = np.full(len(column.dictionary) + 1, -1, np.int32)
            # A dictionary may hold values that no row of this batch has, and in any order.
            used, first = np.unique(indices, return_index=True)
            texts = column.dictionary.to_pylist()
            for value in used[np.argsort(first, kind="stable")].tolist():
                if value < len(texts):
                    own[value] = numbers.setdefault(texts[value], len(numbers))
            codes[place : place + len(indices)] = own[indices]
            place += len(indices)
        return list(numbers), codes

    def knows(self, name: str) -> bool:
        """Whether a fact is known of any image."""
        return any(batch.column(0).null_count < len(batch) for batch in self.batches([name]))

    def _fill(self, name: str, kind: type[np.integer[Any]]) -> NDArray[Any]:
        values, place = np.empty(len(self), kind), 0
        for batch in self.batches([name]):
            values[place : place + len(batch)] = batch.column(0).to_numpy()
            place += len(batch)
        return values

    def _check_sizes(self, found: Mapping[str, int]) -> None:
        for name, facts in self.artifact.card["files"].items():
            shard = name.removeprefix(f"{SHARDS}/")
            if shard != name and found.get(shard) != facts["size"]:
                what = f"has {found[shard]} bytes" if shard in found else "is missing"
                raise InputError(f"{self.path}: {name} {what} in S3, the card says {facts['size']}")

    def read_ahead(self, rows: Sequence[int] | NDArray[np.integer]) -> None:
        """Say which images will be read next: those that lie in S3 are requested together."""
        if isinstance(self._files, FarShards):
            names, shard, offset, sizes = self._places or self.locate()
            wanted = [int(row) for row in rows]
            places = ((names[shard[row]], int(sizes[row]), int(offset[row])) for row in wanted)
            if len(self._ahead) > _MOST_AHEAD:  # of threads that stopped before they read what they asked for
                self._ahead.clear()
            self._ahead.update(zip(wanted, self._files.ahead(places), strict=True))

    def expect(self, rows: NDArray[np.integer]) -> None:
        """Say which images will be read in the next minutes, in any order: neighbours on the disk are read ahead together."""
        if isinstance(self._files, FarShards):
            return
        names, shard, offset, sizes = self._places or self.locate()
        rows = np.unique(rows)
        for number in np.unique(shard[rows]).tolist():
            own = rows[shard[rows] == number]
            self._files.expect(names[number], joined_ranges(offset[own], offset[own] + sizes[own]))

    def read(self, row: int) -> bytes:
        """The encoded image of a row, with the very bytes of the source: one positioned read, or one request to S3.

        Raises:
            InputError: when the shard ends before the image does, or S3 does not answer.
            OSError: when the shard cannot be read.
        """
        names, shard, offset, sizes = self._places or self.locate()
        name, size = names[shard[row]], int(sizes[row])
        begun = self._ahead.pop(row, None) if self._ahead else None
        data = self._files.read(name, size, int(offset[row])) if begun is None else begun.result()
        if len(data) != size:
            raise InputError(f"{self.path / SHARDS / name} at byte {offset[row]}: cut off, expected {size} bytes")
        return data

    def rows(self, split: str) -> NDArray[np.int64]:
        """The rows of a split (int64, ascending).

        Raises:
            InputError: when `split` is not one of `SPLITS`.
        """
        if split not in SPLITS:
            raise InputError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
        names, codes = self.codes("split")
        return np.flatnonzero(codes == names.index(split)) if split in names else np.empty(0, np.int64)

    def rejected(self) -> list[dict[str, Any]]:
        """The rejected inputs: where, identity, source, reason, detail."""
        rows: list[dict[str, Any]] = self.rejections().to_pylist()
        return rows

    def rejections(self) -> pa.Table:
        """The rejected inputs as a table."""
        return _read_table(self.path / "rejected.parquet")

    @property
    def identified(self) -> bool:
        """Whether it is known who is on the images; of a `.bin` only which pairs show one person is known."""
        return bool(self.artifact.contents.get("identities_known", True))

    def check_whole(self) -> None:
        """Check that this is not one part of an extraction or alignment that ran in parts: it has only some of the images.

        Raises:
            InputError: when it is one.
        """
        part, step = self.artifact.contents.get("part"), self.artifact.card["step"]
        if part is not None:
            what = {"align": "an alignment", "extract": "an extraction"}.get(step, step)
            raise InputError(f"{self.path}: is part {part} of {what}, expected all; join them: eolgul {step} --merge")

    def pairs(self) -> Pairs:
        """The pairs of a Benchmark.

        Raises:
            InputError: when the dataset is not a Benchmark, or a pair names a row that does not exist.
        """
        file = self.path / "pairs.parquet"
        if not file.is_file():
            raise InputError(f"{self.path}: not a benchmark (it has no pairs.parquet)")
        table = _read_table(file)
        pairs = Pairs(*(np.asarray(table[name].to_numpy()) for name in PAIRS.names))
        if len(pairs) and (
            max(pairs.left.max(), pairs.right.max()) >= len(self) or min(pairs.left.min(), pairs.right.min()) < 0
        ):
            raise InputError(f"{file}: names a row outside the manifest's {len(self)}")
        return pairs
