"""FaceDataset: encoded images in plain tar shards, and a manifest with a row an image. The only package that knows how
it lies on disk.

`dataset.json` (the card), `manifest.parquet`, `shards/00000.tar` …, `rejected.parquet`, and `pairs.parquet` when the
dataset is a Benchmark. Images keep the very bytes they came with. The manifest gives each one's byte range in its
shard, so an image is one `pread`, from any worker, in any order.
"""

from eolgul.dataset.build import Build, Part, building_dataset
from eolgul.dataset.reader import FaceDataset
from eolgul.dataset.schema import FACTS, SCHEMA, SHARD_BYTES, SPLITS, Pairs
from eolgul.dataset.shard import member_size
from eolgul.dataset.writer import FaceDatasetWriter, writing_dataset

__all__ = [
    "FACTS",
    "SCHEMA",
    "SHARD_BYTES",
    "SPLITS",
    "Build",
    "FaceDataset",
    "FaceDatasetWriter",
    "Pairs",
    "Part",
    "building_dataset",
    "member_size",
    "writing_dataset",
]
