"""Write a FaceDataset shard by shard: each shard with its rows is a task of its own, for any worker, in any order.

Finished shards stay beside the dataset's place, in `.<name>.partial/`, until the whole is there: a job that was killed
goes on from its last whole shard. The result depends on the job alone, not on who wrote which shard when.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eolgul.artifact import check_replaceable, open_artifact, recipe_digest, seal
from eolgul.dataset.schema import FACTS, PAIRS, REJECTED, SCHEMA, SHARDS
from eolgul.dataset.shard import Shard
from eolgul.errors import ADVICE, InputError, Reason, Rejection, printable
from eolgul.files import (
    empty_folder,
    refuse_disk,
    replace_folder,
    sha256_bytes,
    sha256_file,
    work_folder,
    write_atomic,
)

LINES = "read.list"
"""A file of a dataset that is one share of a larger one: the lines that count in the digest of the source."""
_COLUMNS = ("image_id", "identity", "source", "offset", "size", "sha256", "width", "height")


class ShardWriter:
    """Write one shard and its rows. A context manager: the shard counts as finished when the block ends well.

    It can also be one of rejections only; then there is no tar file.
    """

    def __init__(self, folder: Path, number: int, source: str) -> None:
        """Begin the shard `number` in the work folder of a build; `source` is the default of the methods' `source`."""
        self._parts, self._stem, self._source = folder / "parts", f"{number:05}", source
        self._shard = Shard(folder / "artifact" / "shards" / f"{number:05}.tar")
        self._rows: list[tuple[str, str, str, int, int, str, int, int]] = []
        self._facts: list[Mapping[str, Any] | None] = []
        self._rejected: list[dict[str, Any]] = []
        self._lines: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        else:
            self._shard.close(whole=False)

    def add(
        self,
        image_id: str,
        identity: str,
        data: bytes,
        *,
        extension: str,
        size: tuple[int, int],
        source: str | None = None,
        sha256: str | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Store one encoded image as the member `<image_id>.<extension>`.

        Args:
            image_id: `<identity>/<image>`; the caller makes sure that each is given once per dataset.
            identity: whom the image shows.
            data: the encoded image.
            extension: of the member's name.
            size: width and height in pixels.
            source: the name of the source in the manifest.
            sha256: of `data`, when it is known.
            facts: optional columns of the manifest (`FACTS`).
        """
        offset = self._shard.add(f"{image_id}.{extension}", data)
        digest = sha256 or sha256_bytes(data)
        self._rows.append((image_id, identity, source or self._source, offset, len(data), digest, *size))
        self._facts.append(facts)

    def reject(
        self, where: str, rejection: Rejection, *, identity: str | None = None, source: str | None = None
    ) -> None:
        """Record an input that does not become an image; `where` is its place in the source."""
        self._rejected.append(
            {
                "where": where,
                "identity": identity,
                "source": source or self._source,
                "reason": str(rejection.code),
                "detail": rejection.detail,
            }
        )

    def carry_rejected(self, row: Mapping[str, Any]) -> None:
        """Record a rejection of an earlier step again; `row` has the keys of `FaceDataset.rejected`."""
        self._rejected.append(dict(row))

    def note_read(self, line: bytes) -> None:
        """Record that a file was read, for the digest of the source."""
        self._lines.append(line)

    def _finish(self) -> None:
        """Write the rows, then the file that marks the shard as finished."""
        self._shard.close()
        count = len(self._rows)
        if count == 0:
            self._shard.path.unlink()
        columns: dict[str, Any] = dict.fromkeys(_COLUMNS, ())
        if count:
            columns = dict(zip(_COLUMNS, zip(*self._rows, strict=True), strict=True))
        columns["label"] = pa.nulls(count, pa.int32()).fill_null(0)  # known when all shards are there
        columns["shard"] = [self._shard.path.name] * count
        known = {name for facts in self._facts if facts for name in facts}
        for name in FACTS:
            if name in known:
                columns[name] = [facts.get(name) if facts else None for facts in self._facts]
            else:
                columns[name] = pa.nulls(count, SCHEMA.field(name).type)
        rows = pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)
        pq.write_table(rows, self._parts / f"{self._stem}.parquet", compression="lz4")
        rejected = pa.Table.from_pylist(self._rejected, schema=REJECTED)
        pq.write_table(rejected, self._parts / f"{self._stem}.rejected.parquet")
        (self._parts / f"{self._stem}.read").write_bytes(b"".join(self._lines))
        facts = {"images": count, "size": self._shard.size, "sha256": self._shard.sha256}
        write_atomic(self._parts / f"{self._stem}.json", json.dumps(facts).encode())


class DatasetBuild:
    """A FaceDataset that is being built from shards. Made by `build_dataset`; workers get it by pickling."""

    def __init__(self, out: Path, folder: Path) -> None:
        """`out` is the dataset's place and `folder` the work folder beside it."""
        self.out, self.folder = out, folder
        self.sealed = False
        self._known: dict[str, dict[str, Any]] = {}
        self._elsewhere: dict[str, dict[str, Any]] = {}
        self._far: set[str] = set()  # shards that lie elsewhere
        self._contents: dict[str, Any] = {"benchmark": False}

    def shard(self, number: int, source: str) -> ShardWriter:
        """A writer for the shard `number`, whose images come from `source` unless something else is given."""
        return ShardWriter(self.folder, number, source)

    def is_finished(self, number: int) -> bool:
        """Whether an earlier run has finished this shard; the file is read once to be sure."""
        shard = self.folder / "artifact" / "shards" / f"{number:05}.tar"
        try:
            facts = json.loads((self.folder / "parts" / f"{number:05}.json").read_bytes())
            return not facts["images"] or (
                shard.stat().st_size == facts["size"] and sha256_file(shard) == facts["sha256"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def list_known(self, name: str, facts: Mapping[str, Any]) -> None:
        """State the size and SHA-256 of a file of the dataset, which is not read again."""
        self._known[name] = {"sha256": facts["sha256"], "size": facts["size"]}

    def list_elsewhere(self, name: str, facts: Mapping[str, Any]) -> None:
        """State the size and SHA-256 of a file that the card lists and that is not on this machine."""
        self._elsewhere[name] = {"sha256": facts["sha256"], "size": facts["size"]}

    def describe(self, contents: Mapping[str, Any]) -> None:
        """State facts of the card's contents that `finish` would count."""
        self._contents |= contents

    def has_finished(self) -> bool:
        """Whether any shard is finished."""
        return any((self.folder / "parts").glob("*.json"))

    def take_in(self, dataset: Path, numbers: range, *, elsewhere: bool = False) -> None:
        """Use the shards of another build, a FaceDataset of just these `numbers`, as if they had been written here.

        Shards are linked where the file system can do that, and copied on others; those that lie `elsewhere`, as in S3,
        are only listed.

        Raises:
            InputError: when the dataset has other shards.
        """
        card = open_artifact(dataset, "FaceDataset", without=(SHARDS,) if elsewhere else ()).card
        groups: dict[str, pa.Table] = {}
        with pq.ParquetFile(dataset / "manifest.parquet") as manifest:
            for number in range(manifest.num_row_groups):  # `finish` writes one per shard
                table = manifest.read_row_group(number)
                groups[table["shard"][0].as_py()] = table
        with pq.ParquetFile(dataset / "rejected.parquet") as rejected:
            lost = [rejected.read_row_group(number) for number in range(rejected.num_row_groups)]
        known = {f"{number:05}.tar" for number in numbers}
        if not groups.keys() <= known or len(lost) > len(numbers):
            raise InputError(f"{dataset}: has other shards than {numbers.start:05}.tar to {numbers.stop - 1:05}.tar")
        for place, number in enumerate(numbers):
            parts, shard = self.folder / "parts", f"{number:05}.tar"
            table = groups.get(shard, SCHEMA.empty_table())
            facts: dict[str, Any] = {"images": table.num_rows}
            if table.num_rows:
                facts |= card["files"][f"shards/{shard}"]
                if elsewhere:
                    self._far.add(shard)
                else:
                    _link(dataset / "shards" / shard, self.folder / "artifact" / "shards" / shard)
            pq.write_table(table, parts / f"{number:05}.parquet", compression="lz4")
            # Which shard's input was rejected is not recorded; only the order of the rejections counts.
            some = lost[place] if place < len(lost) else REJECTED.empty_table()
            pq.write_table(some, parts / f"{number:05}.rejected.parquet")
            lines = dataset / LINES
            (parts / f"{number:05}.read").write_bytes(lines.read_bytes() if not place and lines.is_file() else b"")
            write_atomic(parts / f"{number:05}.json", json.dumps(facts).encode())

    def finish(
        self, numbers: range, wanted: Collection[str] = (), also_read: bytes = b"", *, may_be_empty: bool = False
    ) -> tuple[dict[str, int], str]:
        """Join the rows of the finished shards `numbers` into the manifest, one row group per shard.

        Labels are given in the order in which identities first appear.

        Args:
            numbers: the shards, all of them finished.
            wanted: image ids whose manifest rows are returned.
            also_read: lines that count in the digest after those of the shards (`ShardWriter.note_read`).
            may_be_empty: accept a dataset without images, as one part of a larger one.

        Returns:
            The manifest row of each wanted id that is there, and the SHA-256 over the lines of what was read.

        Raises:
            InputError: when there is no image.
        """
        folder, artifact = self.folder / "parts", self.folder / "artifact"
        labels: dict[str, int] = {}
        reasons: Counter[str] = Counter()
        rows: dict[str, int] = {}
        ids = pa.array(sorted(wanted), pa.string())
        read = hashlib.sha256()
        images = 0
        with (
            pq.ParquetWriter(artifact / "manifest.parquet", SCHEMA, compression="zstd") as manifest,
            pq.ParquetWriter(artifact / "rejected.parquet", REJECTED, compression="zstd") as rejected,
        ):
            for number in numbers:
                table = pq.read_table(folder / f"{number:05}.parquet")
                if table.num_rows:
                    facts = json.loads((folder / f"{number:05}.json").read_bytes())
                    shard = f"{number:05}.tar"
                    (self.list_elsewhere if shard in self._far else self.list_known)(f"shards/{shard}", facts)
                    column = [labels.setdefault(name, len(labels)) for name in table["identity"].to_pylist()]
                    place = SCHEMA.get_field_index("label")
                    manifest.write_table(table.set_column(place, SCHEMA.field("label"), pa.array(column, pa.int32())))
                    if len(ids):
                        here = pc.indices_nonzero(pc.is_in(table["image_id"], ids)).to_pylist()
                        rows |= {table["image_id"][row].as_py(): images + row for row in here}
                    images += table.num_rows
                lost = pq.read_table(folder / f"{number:05}.rejected.parquet")
                if lost.num_rows:
                    rejected.write_table(lost)
                    reasons.update(lost["reason"].to_pylist())
                read.update((folder / f"{number:05}.read").read_bytes())
        by_reason = dict(sorted(reasons.items()))
        self._contents |= {
            "images": images,
            "identities": len(labels),
            "rejected": reasons.total(),
            "rejected_by_reason": by_reason,
        }
        if images == 0 and not may_be_empty:
            message = self._nothing_usable(reasons)
            shutil.rmtree(folder)  # there is nothing to go on from
            raise InputError(message)
        read.update(also_read)
        return rows, read.hexdigest()

    def keep_lines(self, numbers: range) -> None:
        """Keep the lines of what was read for these shards in the dataset itself, as one share of a larger one."""
        with (self.folder / "artifact" / LINES).open("wb") as file:
            for number in numbers:
                file.write((self.folder / "parts" / f"{number:05}.read").read_bytes())

    def _nothing_usable(self, reasons: Counter[str]) -> str:
        """Say why there is no image: the reasons with their counts, the first rejection, and what to do about most."""
        total, most = reasons.total(), reasons.most_common(1)
        first = next(self.rejections(), None)
        if first is None or not most:
            return f"{self.out.name}: there is no input, expected images"
        counts = dict(sorted(reasons.items()))
        advice = ADVICE.get(Reason(most[0][0]), "")
        text = f"{self.out.name}: not one usable image among {total} inputs ({counts}); the first is {first['where']}: "
        return printable(text + first["detail"]) + (f"; {advice}" if advice else "")

    def rejections(self) -> Iterator[dict[str, Any]]:
        """The rejections of the finished build, in order, as rows of `rejected.parquet`."""
        with pq.ParquetFile(self.folder / "artifact" / "rejected.parquet") as rejected:
            for group in range(rejected.num_row_groups):
                yield from rejected.read_row_group(group).to_pylist()

    def rows_of(self, ids: Iterable[str]) -> dict[str, int]:
        """The manifest row of each image id that the finished build has."""
        wanted, rows, before = pa.array(sorted(set(ids)), pa.string()), dict[str, int](), 0
        with pq.ParquetFile(self.folder / "artifact" / "manifest.parquet") as manifest:
            for group in range(manifest.num_row_groups):
                column = manifest.read_row_group(group, columns=["image_id"])["image_id"]
                here = pc.indices_nonzero(pc.is_in(column, wanted)).to_pylist()
                rows |= {column[row].as_py(): before + row for row in here}
                before += len(column)
        return rows

    def sample(self, count: int) -> list[bytes]:
        """The encoded images of at most `count` rows of the finished build, evenly spaced over it."""
        columns = ("shard", "offset", "size")
        images, before = [], 0
        wanted = evenly(self._contents["images"], count)
        with pq.ParquetFile(self.folder / "artifact" / "manifest.parquet") as manifest:
            for group in range(manifest.num_row_groups):
                behind = before + manifest.metadata.row_group(group).num_rows
                rows = [row - before for row in wanted if before <= row < behind]
                before = behind
                if not rows:
                    continue
                for one in manifest.read_row_group(group, columns=list(columns)).take(rows).to_pylist():
                    with (self.folder / "artifact" / "shards" / one["shard"]).open("rb") as file:
                        file.seek(one["offset"])
                        images.append(file.read(one["size"]))
        return images

    @property
    def counted(self) -> int:
        """The images and the rejected inputs of a dataset whose rows are joined (`finish`)."""
        return int(self._contents["images"] + self._contents["rejected"])

    def write_pairs(self, left: Sequence[int], right: Sequence[int], same: Sequence[bool], fold: Sequence[int]) -> None:
        """Write `pairs.parquet`, which makes the dataset a Benchmark; `left` and `right` are rows of the manifest."""
        table = pa.table({"left": left, "right": right, "same": same, "fold": fold}, schema=PAIRS)
        pq.write_table(table, self.folder / "artifact" / "pairs.parquet", compression="zstd")
        self._contents["benchmark"] = True

    def seal(
        self,
        *,
        step: str,
        version: int,
        recipe: Mapping[str, Any],
        inputs: Sequence[Mapping[str, str]],
        synthetic: bool,
        facts: Mapping[str, Any],
    ) -> None:
        """Write the card; the dataset gets its place when the block of `build_dataset` ends.

        Args:
            step: the name of the step that makes the dataset.
            version: the step's version, see `eolgul.artifact.seal`.
            recipe: the options that its contents depend on (JSON values).
            inputs: references to the artifacts it is made from.
            synthetic: whether any of its images was drawn.
            facts: what the card's contents state besides the counts (JSON values).
        """
        seal(
            self.folder / "artifact",
            "FaceDataset",
            step=step,
            version=version,
            recipe=recipe,
            inputs=inputs,
            contents=self._contents | dict(facts),
            synthetic=synthetic,
            known=self._known,
            elsewhere=self._elsewhere,
        )
        self.sealed = True


def evenly(total: int, count: int) -> list[int]:
    """At most `count` rows of `total`, evenly spaced over them."""
    chosen = min(count, total)
    return [total * (2 * place + 1) // (2 * chosen) for place in range(chosen)]


@contextmanager
def build_dataset(out: Path, job: Mapping[str, Any]) -> Iterator[DatasetBuild]:
    """Yield a build whose FaceDataset appears at `out` when the block ends well after `seal`.

    Otherwise finished shards stay, hidden, for the next run of the same job; another job starts anew.

    Args:
        out: the dataset's place.
        job: JSON values that the shards depend on, all of them.

    Raises:
        InputError: when `out` cannot be replaced, another process is writing it, or the disk is full.
    """
    out = out.absolute()
    check_replaceable(out)
    with work_folder(out, recipe_digest(job)) as folder:
        build = DatasetBuild(out, folder)
        try:
            (folder / "parts").mkdir(exist_ok=True)
            (folder / "artifact" / "shards").mkdir(parents=True, exist_ok=True)
            for half in (folder / "artifact").glob("*.*"):
                half.unlink()
            yield build
            if not build.sealed:
                raise RuntimeError(f"{out}: left without a card")
            check_replaceable(out)
            replace_folder(folder, folder / "artifact", out)
        except OSError as error:
            refuse_disk(out, error)
            raise
        finally:
            if build.sealed or not build.has_finished():
                empty_folder(folder)


def _link(file: Path, to: Path) -> None:
    """Give a finished file a second name, or copy it where the file system has no hard links."""
    to.unlink(missing_ok=True)
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)
