"""Read a FaceDataset: the manifest as columns, an image as one positioned read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from eolgul.artifact import Artifact, open_artifact
from eolgul.dataset.schema import PAIRS, SCHEMA, SPLITS, Pairs
from eolgul.errors import InputError


def _read_table(file: Path) -> pa.Table:
    try:
        return pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: not a readable Parquet file ({str(error).splitlines()[0]})") from error


class FaceDataset:
    """A FaceDataset opened for reading. Rows are those of the manifest; threads can share it, processes by pickling."""

    def __init__(self, path: Path, *, check: str = "size") -> None:
        """Open the dataset at `path`.

        Raises:
            InputError: when it is not a whole FaceDataset, checked as `open_artifact` does with `check`.
        """
        self.artifact: Artifact = open_artifact(path, "FaceDataset", check=check)
        self.path = path
        self.manifest: pa.Table = _read_table(path / "manifest.parquet")
        missing = set(SCHEMA.names) - set(self.manifest.column_names)
        if missing:
            raise InputError(f"{path / 'manifest.parquet'}: lacks the columns {sorted(missing)}")
        if self.manifest.num_rows != self.artifact.contents["images"]:
            raise InputError(
                f"{path / 'manifest.parquet'}: {self.manifest.num_rows} rows, the card says {self.artifact.contents['images']}"
            )
        shards = self.manifest["shard"].combine_chunks().dictionary_encode()
        self._shard_names: list[str] = shards.dictionary.to_pylist()
        self._shard = np.asarray(shards.indices)
        self._offset = self.numpy("offset")
        self._size = self.numpy("size")
        self._files: dict[str, int] = {}

    def __len__(self) -> int:
        """The number of images."""
        return int(self.manifest.num_rows)

    def __getstate__(self) -> dict[str, Any]:
        """The state for pickling, without open files: each process opens the shards for itself."""
        return self.__dict__ | {"_files": {}}

    def __del__(self) -> None:
        """Close the shards."""
        for handle in getattr(self, "_files", {}).values():
            os.close(handle)

    def column(self, name: str) -> list[Any]:
        """A manifest column as Python values; None where a fact is unknown."""
        values: list[Any] = self.manifest[name].to_pylist()
        return values

    def numpy(self, name: str) -> NDArray[Any]:
        """A manifest column without unknown values as an array of one value per row."""
        return np.asarray(self.manifest[name].to_numpy())

    def read(self, row: int) -> bytes:
        """The encoded image of a row, with the very bytes of the source: one positioned read.

        Raises:
            InputError: when the shard ends before the image does.
        """
        name = self._shard_names[self._shard[row]]
        handle = self._files.get(name)
        if handle is None:
            opened = os.open(self.path / "shards" / name, os.O_RDONLY)
            handle = self._files.setdefault(name, opened)
            if handle != opened:  # another thread was first
                os.close(opened)
        size = int(self._size[row])
        data = os.pread(handle, size, int(self._offset[row]))
        if len(data) != size:
            raise InputError(
                f"{self.path / 'shards' / name} at byte {self._offset[row]}: cut off, expected {size} bytes"
            )
        return data

    def rows(self, split: str) -> NDArray[np.int64]:
        """The rows of a split (int64, ascending).

        Raises:
            InputError: when `split` is not one of `SPLITS`.
        """
        if split not in SPLITS:
            raise InputError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
        return np.flatnonzero(np.asarray(pc.fill_null(pc.equal(self.manifest["split"], split), False))).astype(np.int64)

    def rejected(self) -> list[dict[str, Any]]:
        """The rejected inputs: where, identity, source, reason, detail."""
        rows: list[dict[str, Any]] = _read_table(self.path / "rejected.parquet").to_pylist()
        return rows

    @property
    def identified(self) -> bool:
        """Whether it is known who is on the images; of a `.bin` only which pairs show one person is known."""
        return bool(self.artifact.contents.get("identities_known", True))

    def check_whole(self) -> None:
        """Check that this is not one part of an alignment that ran in parts: it has only some of the images.

        Raises:
            InputError: when it is one.
        """
        part = self.artifact.contents.get("part")
        if part is not None:
            raise InputError(
                f"{self.path}: is part {part} of an alignment, expected all; join them: eolgul align --merge"
            )

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
