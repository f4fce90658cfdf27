"""Writing a FaceDataset by parts: each shard with its rows is a task of its own, for any worker, in any order.

What is finished stays beside the artifact's place, in `.<name>.partial/`, until the whole is there: a job that was killed
goes on from its last whole shard. What the parts become depends on the job alone, not on who wrote which part when.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eolgul.artifact import check_replaceable, open_artifact, recipe_digest, seal
from eolgul.dataset.schema import FACTS, PAIRS, REJECTED, SCHEMA
from eolgul.dataset.shard import Shard
from eolgul.errors import InputError
from eolgul.files import empty_folder, refuse_disk, replace_folder, sha256_file, work_folder


class Part:
    """One shard and its rows, being written. It counts as finished when `close` has put its `.json` there."""

    def __init__(self, folder: Path, number: int, source: str) -> None:
        self._parts, self._stem, self._source = folder / "parts", f"{number:05}", source
        self._shard = Shard(folder / "artifact" / "shards" / f"{number:05}.tar")
        self._rows: list[tuple[str, str, int, int, str, int, int]] = []
        self._facts: list[Mapping[str, Any] | None] = []
        self._rejected: list[dict[str, Any]] = []
        self._lines: list[bytes] = []

    def add(
        self,
        image_id: str,
        identity: str,
        data: bytes,
        extension: str,
        width: int,
        height: int,
        sha256: str,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Store one encoded image as `<image_id>.<extension>`; ids are the caller's to keep apart."""
        offset = self._shard.add(f"{image_id}.{extension}", data)
        self._rows.append((image_id, identity, offset, len(data), sha256, width, height))
        self._facts.append(facts)

    def reject(self, where: str, *, reason: str, detail: str, identity: str | None = None) -> None:
        """Note an input that does not become an image: where it was, a reason code, a sentence."""
        row = {"where": where, "identity": identity, "source": self._source, "reason": reason, "detail": detail}
        self._rejected.append(row)

    def note_read(self, line: bytes) -> None:
        """Remember that a file was read, for the digest of the source."""
        self._lines.append(line)

    def close(self) -> None:
        """Write the rows, and then what says that this part is whole."""
        self._shard.close()
        count = len(self._facts)
        if count == 0:
            self._shard.path.unlink()
        names = ("image_id", "identity", "offset", "size", "sha256", "width", "height")
        columns: dict[str, Any] = (
            dict(zip(names, zip(*self._rows, strict=True), strict=True)) if count else dict.fromkeys(names, ())
        )
        columns["label"] = pa.nulls(count, pa.int32()).fill_null(0)  # given when the parts come together
        columns["source"] = [self._source] * count
        columns["shard"] = [self._shard.path.name] * count
        known = {name for facts in self._facts if facts for name in facts}
        for name in FACTS:
            if name in known:
                columns[name] = [facts.get(name) if facts else None for facts in self._facts]
            else:
                columns[name] = pa.nulls(count, SCHEMA.field(name).type)
        rows = pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)
        pq.write_table(rows, self._parts / f"{self._stem}.parquet", compression="lz4")
        pq.write_table(
            pa.Table.from_pylist(self._rejected, schema=REJECTED), self._parts / f"{self._stem}.rejected.parquet"
        )
        (self._parts / f"{self._stem}.read").write_bytes(b"".join(self._lines))
        facts = {"images": count, "size": self._shard.size, "sha256": self._shard.sha256}
        done = self._parts / f"{self._stem}.json"
        done.with_suffix(".tmp").write_text(json.dumps(facts))
        done.with_suffix(".tmp").replace(done)

    def give_up(self) -> None:
        """Let go of the files of a part that will not be finished."""
        self._shard.close(whole=False)


class Build:
    """A FaceDataset that is being built from parts. Made by `building_dataset`."""

    def __init__(self, out: Path, folder: Path) -> None:
        self.out, self.folder = out, folder
        self.sealed = False
        self._known: dict[str, dict[str, Any]] = {}
        self._contents: dict[str, Any] = {"benchmark": False}

    def is_finished(self, number: int) -> bool:
        """Whether an earlier run has left this part whole; its shard is read once to be sure."""
        shard = self.folder / "artifact" / "shards" / f"{number:05}.tar"
        try:
            facts = json.loads((self.folder / "parts" / f"{number:05}.json").read_bytes())
            return not facts["images"] or (
                shard.stat().st_size == facts["size"] and sha256_file(shard) == facts["sha256"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def any_finished(self) -> bool:
        return any((self.folder / "parts").glob("*.json"))

    def adopt(self, dataset: Path, first: int, end: int) -> None:
        """Take in, as parts `first` to before `end`, what another build has made of them: a FaceDataset of just these.

        Shards are linked where the file system can do that. The parts then merge as if they had been written here.
        """
        card = open_artifact(dataset, "FaceDataset").card
        groups: dict[str, pa.Table] = {}
        with pq.ParquetFile(dataset / "manifest.parquet") as manifest:
            for number in range(manifest.num_row_groups):  # `merge` writes one a part
                table = manifest.read_row_group(number)
                groups[table["shard"][0].as_py()] = table
        with pq.ParquetFile(dataset / "rejected.parquet") as rejected:
            lost = [rejected.read_row_group(number) for number in range(rejected.num_row_groups)]
        known = {f"{number:05}.tar" for number in range(first, end)}
        if not groups.keys() <= known or len(lost) > end - first:
            raise InputError(f"{dataset}: holds other shards than {first:05}.tar to {end - 1:05}.tar")
        for number in range(first, end):
            parts, shard = self.folder / "parts", f"{number:05}.tar"
            table = groups.get(shard, SCHEMA.empty_table())
            facts: dict[str, Any] = {"images": table.num_rows}
            if table.num_rows:
                facts |= card["files"][f"shards/{shard}"]
                _link(dataset / "shards" / shard, self.folder / "artifact" / "shards" / shard)
            pq.write_table(table, parts / f"{number:05}.parquet", compression="lz4")
            # Which part rejected what is not told, nor needed: only their order counts.
            some = lost[number - first] if number - first < len(lost) else REJECTED.empty_table()
            pq.write_table(some, parts / f"{number:05}.rejected.parquet")
            (parts / f"{number:05}.read").write_bytes(b"")
            (parts / f"{number:05}.json").write_text(json.dumps(facts))

    def merge(
        self,
        parts: int,
        wanted: Collection[str] = (),
        also_read: bytes = b"",
        *,
        first: int = 0,
        may_be_empty: bool = False,
    ) -> tuple[dict[str, int], str]:
        """Put the rows of the parts from `first` to before `parts` together into the manifest.

        Labels are counted in the order in which identities come. Returns the manifest rows of the `wanted` image ids that
        are there, and the sha256 over what the parts have read and over the lines in `also_read`. InputError when there
        is not one image, unless it `may_be_empty`: a piece of a larger whole.
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
            for number in range(first, parts):
                table = pq.read_table(folder / f"{number:05}.parquet")
                if table.num_rows:
                    facts = json.loads((folder / f"{number:05}.json").read_bytes())
                    self._known[f"shards/{number:05}.tar"] = {"sha256": facts["sha256"], "size": facts["size"]}
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
        self._contents |= {
            "images": images,
            "identities": len(labels),
            "rejected": reasons.total(),
            "rejected_by_reason": dict(sorted(reasons.items())),
        }
        if images == 0 and not may_be_empty:
            shutil.rmtree(folder)  # there is nothing to go on from
            raise InputError(
                f"{self.out.name}: not one usable image among {reasons.total()} inputs ({dict(sorted(reasons.items()))})"
            )
        read.update(also_read)
        return rows, read.hexdigest()

    def pairs(self, left: Sequence[int], right: Sequence[int], same: Sequence[bool], fold: Sequence[int]) -> None:
        """Write `pairs.parquet`, which makes the dataset a Benchmark; rows are the manifest's."""
        table = pa.table({"left": left, "right": right, "same": same, "fold": fold}, schema=PAIRS)
        pq.write_table(table, self.folder / "artifact" / "pairs.parquet", compression="zstd")
        self._contents["benchmark"] = True

    def seal(
        self,
        *,
        step: str,
        recipe: Mapping[str, Any],
        inputs: Sequence[Mapping[str, str]],
        synthetic: bool,
        facts: Mapping[str, Any],
    ) -> None:
        """Write the card, `facts` (JSON values) among its contents; the artifact appears when the block ends."""
        seal(
            self.folder / "artifact",
            "FaceDataset",
            step=step,
            recipe=recipe,
            inputs=inputs,
            contents=self._contents | dict(facts),
            synthetic=synthetic,
            known=self._known,
        )
        self.sealed = True


@contextmanager
def building_dataset(out: Path, job: Mapping[str, Any]) -> Iterator[Build]:
    """A FaceDataset to build from parts; it appears under `out` when the block ends well after `seal`.

    Otherwise finished parts stay, hidden, for the next run of the same `job` (JSON values that say all on which the
    parts depend); another job starts anew. InputError when `out` may not be replaced, when another process is writing
    it, or when the disk is full.
    """
    out = out.absolute()
    check_replaceable(out)
    with work_folder(out, recipe_digest(job)) as folder:
        build = Build(out, folder)
        try:
            _begin(folder)
            yield build
            if not build.sealed:
                raise RuntimeError(f"{out}: left without a card")
            check_replaceable(out)
            replace_folder(folder, folder / "artifact", out)
        except OSError as error:
            refuse_disk(out, error)
            raise
        finally:
            if build.sealed or not build.any_finished():
                empty_folder(folder)


def _link(file: Path, to: Path) -> None:
    """A second name for a finished file, or a copy where there can be none."""
    to.unlink(missing_ok=True)
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)


def _begin(folder: Path) -> None:
    (folder / "parts").mkdir(exist_ok=True)
    (folder / "artifact" / "shards").mkdir(parents=True, exist_ok=True)
    for half in (*(folder / "parts").glob("*.tmp"), *(folder / "artifact").glob("*.*")):
        half.unlink()
