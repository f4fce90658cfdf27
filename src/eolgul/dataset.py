"""FaceDataset: encoded images in plain tar shards, and a manifest with a row an image. The only module that knows how
it lies on disk.

`dataset.json` (the card), `manifest.parquet`, `shards/00000.tar` …, `rejected.parquet`, and `pairs.parquet` when the
dataset is a Benchmark. Images keep the very bytes they came with. The manifest gives each one's byte range in its
shard, so an image is one `pread`, from any worker, in any order.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from eolgul.artifact import Artifact, open_artifact, seal, sha256_bytes, writing
from eolgul.errors import InputError

SHARD_BYTES = 512 << 20
SPLITS = ("train", "validation", "calibration", "test")
_BATCH = 50_000

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("box", pa.list_(pa.float32(), 4)),
        pa.field("landmarks", pa.list_(pa.float32(), 10)),
        pa.field("detection_score", pa.float32()),
        pa.field("faces_found", pa.int32()),
        pa.field("face_choice", pa.string()),  # the policy that chose this face among those found
        pa.field("landmark_source", pa.string()),  # detected | annotated | anchored
        pa.field("eye_distance", pa.float32()),  # pixels of the image the face was found in
        pa.field("sharpness", pa.float32()),
        pa.field("brightness", pa.float32()),
        pa.field("contrast", pa.float32()),
        pa.field("yaw", pa.float32()),  # degrees, estimated from the landmarks, signed as K-FACE signs its cameras
        pa.field("resolution", pa.string()),
        pa.field("accessory", pa.string()),
        pa.field("light", pa.string()),
        pa.field("expression", pa.string()),
        pa.field("camera", pa.string()),
    ]
)
FACTS = tuple(SCHEMA.names[10:])
_REJECTED = pa.schema(
    [
        pa.field("where", pa.string(), nullable=False),
        pa.field("identity", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
_PAIRS = pa.schema(
    [
        pa.field("left", pa.int64(), nullable=False),
        pa.field("right", pa.int64(), nullable=False),
        pa.field("same", pa.bool_(), nullable=False),
        pa.field("fold", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of a Benchmark: manifest rows (int64), whether they show one person, and the fold (int32)."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.same)


@dataclass
class _Parquet:
    """Rows collected into record batches, so that a manifest of millions of rows needs little memory."""

    path: Path
    schema: pa.Schema
    rows: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self._writer = pq.ParquetWriter(self.path, self.schema, compression="zstd")

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.count += 1
        if len(self.rows) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.rows.clear()

    def close(self) -> None:
        if self.rows or self.count == 0:
            self._flush()
        self._writer.close()


class FaceDatasetWriter:
    """Fill a FaceDataset image by image. Made by `writing_dataset`, which makes it whole or not at all."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self._folder = folder
        self._shard_bytes = shard_bytes
        (folder / "shards").mkdir()
        self._manifest = _Parquet(folder / "manifest.parquet", SCHEMA)
        self._rejected = _Parquet(folder / "rejected.parquet", _REJECTED)
        self._shards = 0
        self._tar: tarfile.TarFile | None = None
        self._labels: dict[str, int] = {}
        self._ids: set[str] = set()
        self._reasons: Counter[str] = Counter()
        self._facts: dict[str, Any] = {}
        self._pairs = False

    @property
    def images(self) -> int:
        return self._manifest.count

    @property
    def identities(self) -> int:
        return len(self._labels)

    @property
    def rejected(self) -> int:
        return self._rejected.count

    def add(
        self,
        image_id: str,
        identity: str,
        data: bytes,
        *,
        extension: str,
        size: tuple[int, int],
        source: str,
        facts: Mapping[str, Any] | None = None,
    ) -> bool:
        """Store one encoded image as `<image_id>.<extension>` and return True; a duplicate id is rejected (False).

        `image_id` is `<identity>/<image>`; `size` is (width, height) in pixels; `facts` holds optional manifest columns.
        """
        if image_id in self._ids:
            self.reject(
                image_id,
                source=source,
                identity=identity,
                reason="duplicate_key",
                detail="an image of this id is already there",
            )
            return False
        self._ids.add(image_id)
        shard, offset = self._store(f"{image_id}.{extension}", data)
        row = dict.fromkeys(FACTS)
        row.update(facts or {})
        row.update(
            image_id=image_id,
            identity=identity,
            label=self._labels.setdefault(identity, len(self._labels)),
            source=source,
            shard=shard,
            offset=offset,
            size=len(data),
            sha256=sha256_bytes(data),
            width=size[0],
            height=size[1],
        )
        self._manifest.add(row)
        return True

    def reject(self, where: str, *, source: str, reason: str, detail: str, identity: str | None = None) -> None:
        """Note an input that does not become an image: where it was, a reason code, a sentence."""
        self._reasons[reason] += 1
        self._rejected.add({"where": where, "identity": identity, "source": source, "reason": reason, "detail": detail})

    def pairs(self, left: Sequence[int], right: Sequence[int], same: Sequence[bool], fold: Sequence[int]) -> None:
        """Write `pairs.parquet`, which makes the dataset a Benchmark; rows count from 0 in the order of `add`."""
        table = pa.table({"left": left, "right": right, "same": same, "fold": fold}, schema=_PAIRS)
        pq.write_table(table, self._folder / "pairs.parquet", compression="zstd")
        self._pairs = True

    def describe(self, **facts: Any) -> None:
        """Put more facts into the card's contents (JSON values)."""
        self._facts.update(facts)

    def _store(self, name: str, data: bytes) -> tuple[str, int]:
        if self._tar is not None and self._tar.offset + len(data) > self._shard_bytes:
            self._tar.close()
            self._tar = None
        if self._tar is None:
            path = self._folder / "shards" / f"{self._shards:05}.tar"
            self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by _close
            self._shards += 1
        member = tarfile.TarInfo(name)
        member.size = len(data)
        member.mode = 0o644
        self._tar.addfile(member, io.BytesIO(data))
        padded = (len(data) + tarfile.BLOCKSIZE - 1) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        return f"{self._shards - 1:05}.tar", self._tar.offset - padded

    def _close(self) -> dict[str, Any]:
        if self._tar is not None:
            self._tar.close()
        self._manifest.close()
        self._rejected.close()
        return {
            "images": self.images,
            "identities": self.identities,
            "rejected": self.rejected,
            "rejected_by_reason": dict(sorted(self._reasons.items())),
            "benchmark": self._pairs,
            **self._facts,
        }


@contextmanager
def writing_dataset(
    out: Path,
    *,
    step: str,
    recipe: Mapping[str, Any],
    inputs: Sequence[Mapping[str, str]],
    synthetic: bool,
    shard_bytes: int = SHARD_BYTES,
) -> Iterator[FaceDatasetWriter]:
    """A writer for a new FaceDataset, which appears under `out` only when the block ends well."""
    with writing(out) as folder:
        writer = FaceDatasetWriter(folder, shard_bytes)
        try:
            yield writer
        finally:
            contents = writer._close()
        if writer.images == 0:
            raise InputError(
                f"{out.name}: not one usable image among {writer.rejected} inputs ({contents['rejected_by_reason']})"
            )
        seal(folder, "FaceDataset", step=step, recipe=recipe, inputs=inputs, contents=contents, synthetic=synthetic)


def _read_table(file: Path) -> pa.Table:
    try:
        return pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: not a readable Parquet file ({str(error).splitlines()[0]})") from error


class FaceDataset:
    """A FaceDataset opened for reading. Rows are numbered as the manifest is; safe to share between threads."""

    def __init__(self, path: Path, *, check: str = "size") -> None:
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
        self._shard = self.column("shard")
        self._offset = self.numpy("offset")
        self._size = self.numpy("size")
        self._files: dict[str, int] = {}

    def __len__(self) -> int:
        return int(self.manifest.num_rows)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}  # each process opens the shards for itself

    def __del__(self) -> None:
        for handle in getattr(self, "_files", {}).values():
            os.close(handle)

    def column(self, name: str) -> list[Any]:
        """A manifest column as Python values (None where a fact is unknown)."""
        values: list[Any] = self.manifest[name].to_pylist()
        return values

    def numpy(self, name: str) -> NDArray[Any]:
        """A manifest column without gaps as an array."""
        return np.asarray(self.manifest[name].to_numpy())

    def read(self, row: int) -> bytes:
        """The encoded image of a row, exactly as it came: one positioned read."""
        name = self._shard[row]
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
        """The rows of a split, ascending."""
        if split not in SPLITS:
            raise InputError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
        return np.flatnonzero(np.asarray(pc.fill_null(pc.equal(self.manifest["split"], split), False))).astype(np.int64)

    def rejected(self) -> list[dict[str, Any]]:
        """The rejected inputs: where, identity, source, reason, detail."""
        rows: list[dict[str, Any]] = _read_table(self.path / "rejected.parquet").to_pylist()
        return rows

    def pairs(self) -> Pairs:
        """The pairs of a Benchmark; InputError for a dataset that is none."""
        file = self.path / "pairs.parquet"
        if not file.is_file():
            raise InputError(f"{self.path}: has no pairs.parquet, so it is no benchmark")
        table = _read_table(file)
        pairs = Pairs(*(np.asarray(table[name].to_numpy()) for name in _PAIRS.names))
        if len(pairs) and (
            max(pairs.left.max(), pairs.right.max()) >= len(self) or min(pairs.left.min(), pairs.right.min()) < 0
        ):
            raise InputError(f"{file}: names a row outside the manifest's {len(self)}")
        return pairs
