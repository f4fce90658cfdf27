"""Copies of images for an assembly: shards of its own, with the images of the assembled identities only.

Memory: the manifest's rows of one shard as Python values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from eolgul.assemble.people import People
from eolgul.dataset import FACTS, FaceDataset, ShardWriter, member_size
from eolgul.dataset.shard import member_header
from eolgul.images.decode import EXTENSIONS, probe

_BEGINNINGS = {b"\xff\xd8\xff": "jpg", b"\x89PN": "png"}  # of the formats that nearly all images have


def divide(sources: Sequence[FaceDataset], people: People, shard_bytes: int) -> list[list[tuple[int, range]]]:
    """Divide the rows of all sources, in their order, into shards of at most `shard_bytes`; one image at least.

    Returns:
        Per shard, the numbers of the sources that it has images of, and the rows of each.
    """
    shards: list[list[tuple[int, range]]] = []
    size = 0
    for number, source in enumerate(sources):
        prefix = source.artifact.contents["name"]
        begin = 0
        kept = people.rows_kept(number)
        values = (
            pair
            for batch in source.batches(["image_id", "size"])
            for pair in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)
        )
        for row, (image_id, length) in enumerate(values):
            if not kept[row]:
                if row > begin:
                    shards[-1].append((number, range(begin, row)))
                begin = row + 1
                continue
            if not shards or (size and size + length > shard_bytes):
                if row > begin:
                    shards[-1].append((number, range(begin, row)))
                shards.append([])
                begin, size = row, 0
            size += len(member_header(f"{prefix}.{image_id}.jpg", length)) + member_size(length) - member_size(0)
        if len(source) > begin:
            shards[-1].append((number, range(begin, len(source))))
    return shards


def write_shard(
    shard: ShardWriter,
    source: FaceDataset,
    rows: range,
    splits: Mapping[str, str],
    report: Callable[[int], None],
) -> None:
    """Store these rows of a source under names that begin with the source's, each with its identity's split."""
    prefix = source.artifact.contents["name"]
    for place, row in enumerate(source.table(rows=rows).to_pylist()):
        data = source.read(rows.start + place)
        identity = f"{prefix}.{row['identity']}"
        shard.add(
            f"{prefix}.{row['image_id']}",
            identity,
            data,
            extension=_BEGINNINGS.get(data[:3]) or EXTENSIONS[probe(data).format],
            size=(row["width"], row["height"]),
            source=row["source"],
            facts={name: row[name] for name in FACTS} | {"split": splits[identity]},
        )
        report(1)
