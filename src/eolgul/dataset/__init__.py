"""FaceDataset: encoded images in plain tar shards, and a manifest with one row per image.

`dataset.json` (the card), `manifest.parquet`, `shards/00000.tar` …, `rejected.parquet`, and `pairs.parquet` when the
dataset is a Benchmark. Images keep the very bytes they came with. The manifest gives the byte range of each image in its
shard, so reading an image is one `pread`, from any worker, in any order. Only this package knows the layout on disk.
"""

from eolgul.dataset.build import LINES, DatasetBuild, ShardWriter, build_dataset, evenly
from eolgul.dataset.reader import FaceDataset
from eolgul.dataset.schema import FACTS, SCHEMA, SHARD_BYTES, SHARDS, SPLITS, Pairs
from eolgul.dataset.shard import member_size

__all__ = [
    "FACTS",
    "LINES",
    "SCHEMA",
    "SHARDS",
    "SHARD_BYTES",
    "SPLITS",
    "DatasetBuild",
    "FaceDataset",
    "Pairs",
    "ShardWriter",
    "build_dataset",
    "evenly",
    "member_size",
]
