"""Writing a FaceDataset image by image, in one process: for steps whose every image is a computation of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eolgul.artifact import seal, writing
from eolgul.dataset.schema import FACTS, PAIRS, REJECTED, SCHEMA, SHARD_BYTES
from eolgul.dataset.shard import Shard
from eolgul.errors import InputError
from eolgul.files import sha256_bytes

_BATCH = 50_000


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
        self._rejected = _Parquet(folder / "rejected.parquet", REJECTED)
        self._shards = 0
        self._shard: Shard | None = None
        self._digests: dict[str, dict[str, Any]] = {}
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
        table = pa.table({"left": left, "right": right, "same": same, "fold": fold}, schema=PAIRS)
        pq.write_table(table, self._folder / "pairs.parquet", compression="zstd")
        self._pairs = True

    def describe(self, **facts: Any) -> None:
        """Put more facts into the card's contents (JSON values)."""
        self._facts.update(facts)

    def _store(self, name: str, data: bytes) -> tuple[str, int]:
        if self._shard is not None and self._shard.size + len(data) > self._shard_bytes:
            self._end_shard()
        if self._shard is None:
            self._shard = Shard(self._folder / "shards" / f"{self._shards:05}.tar")
            self._shards += 1
        return self._shard.path.name, self._shard.add(name, data)

    def _end_shard(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._digests[f"shards/{self._shard.path.name}"] = {"sha256": self._shard.sha256, "size": self._shard.size}
            self._shard = None

    def _close(self) -> dict[str, Any]:
        self._end_shard()
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
        seal(
            folder,
            "FaceDataset",
            step=step,
            recipe=recipe,
            inputs=inputs,
            contents=contents,
            synthetic=synthetic,
            known=writer._digests,
        )
