"""Join datasets into one without touching an image: their shards by reference, their manifests as one table.

A shard of a parent gets a second name (a hard link), so both datasets have the same bytes on the disk once. A shard that
lies elsewhere, as in S3, is only listed: the card has its size and SHA-256, and `eolgul.storage` knows its object.
Memory: some ten thousand rows at a time, and one name per shard.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eolgul.dataset.build import DatasetBuild
from eolgul.dataset.reader import FaceDataset
from eolgul.dataset.schema import REJECTED, SCHEMA, SHARDS
from eolgul.errors import InputError
from eolgul.files import write_atomic

_logger = logging.getLogger("eolgul.dataset")
# File systems without hard links, another file system, a file of somebody else, too many names of one file.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}
_BLOCK = 4 << 20
_REPEATING = [name for name in SCHEMA.names if pa.types.is_string(SCHEMA.field(name).type)]
_REPEATING = [name for name in _REPEATING if name not in ("image_id", "sha256")]  # those differ from row to row


def refer_to_shard(build: DatasetBuild, number: int, parent: FaceDataset, name: str, *, elsewhere: bool) -> bool:
    """Take the parent's shard `name` as the shard `number` of the dataset that is built.

    A shard that lies elsewhere is only listed. A copy, where no link is possible, is checked against the parent's
    card while it is made; a run that was killed goes on behind its last whole copy.

    Returns:
        Whether the shard had to be copied.

    Raises:
        InputError: when the parent's shard does not have the bytes that its card states.
    """
    facts = parent.artifact.card["files"][f"{SHARDS}/{name}"]
    new, file = f"{number:05}.tar", parent.path / SHARDS / name
    if elsewhere:  # a file that is here all the same may be of an older dataset
        build.list_elsewhere(f"{SHARDS}/{new}", facts)
        return False
    build.list_known(f"{SHARDS}/{new}", facts)
    target = build.folder / "artifact" / SHARDS / new
    done = build.folder / "parts" / f"{number:05}.json"
    if target.exists() and target.samefile(file):
        return False
    if done.is_file() and build.is_finished(number):
        return True
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        if not any((build.folder / "parts").glob("*.json")):
            _logger.warning("%s: cannot be linked to %s (%s); the shards are copied", build.out, file, error.strerror)
        _copy(file, target, facts)
        write_atomic(done, json.dumps({"images": 1, **facts}).encode())
        return True
    return False


def _copy(file: Path, target: Path, facts: Mapping[str, Any]) -> None:
    digest = hashlib.sha256()
    with file.open("rb") as source, target.open("wb") as copy:
        while block := source.read(_BLOCK):
            digest.update(block)
            copy.write(block)
    if digest.hexdigest() != facts["sha256"]:
        raise InputError(f"{file}: sha256 differs from the one in its dataset's card")


def write_tables(build: DatasetBuild, rows: Iterable[pa.Table], rejected: Iterable[pa.Table]) -> None:
    """Write the manifest, whose labels are given, and the rejections; count both for the card."""
    folder = build.folder / "artifact"
    images, identities = 0, -1
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": _REPEATING}
    with pq.ParquetWriter(folder / "manifest.parquet", SCHEMA, **options) as manifest:
        for table in rows:
            if table.num_rows:
                manifest.write_table(table)
                images += table.num_rows
                identities = max(identities, pc.max(table["label"]).as_py())
    reasons: Counter[str] = Counter()
    with pq.ParquetWriter(folder / "rejected.parquet", REJECTED, compression="zstd") as writer:
        for table in rejected:
            if table.num_rows:
                writer.write_table(table)
                for item in pc.value_counts(table["reason"]).to_pylist():
                    reasons[item["values"]] += item["counts"]
    build.describe(
        {
            "images": images,
            "identities": identities + 1,
            "rejected": reasons.total(),
            "rejected_by_reason": dict(sorted(reasons.items())),
        }
    )
