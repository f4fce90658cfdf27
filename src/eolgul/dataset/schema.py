"""The columns of a FaceDataset's tables and the values of its enumerations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

SHARDS = "shards"  # the folder of the tar files
SHARD_BYTES = 512 << 20
SPLITS = ("train", "validation", "calibration", "test")

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
        pa.field("face_choice", pa.string()),  # the policy that chose this face among those detected
        pa.field("landmark_source", pa.string()),  # detected | annotated | anchored
        pa.field("eye_distance", pa.float32()),  # pixels, in the image the face was detected in
        pa.field("sharpness", pa.float32()),
        pa.field("brightness", pa.float32()),
        pa.field("contrast", pa.float32()),
        pa.field("yaw", pa.float32()),  # degrees, estimated from the landmarks, with the sign of K-FACE's cameras
        pa.field("resolution", pa.string()),
        pa.field("accessory", pa.string()),
        pa.field("light", pa.string()),
        pa.field("expression", pa.string()),
        pa.field("camera", pa.string()),
    ]
)
FACTS = tuple(SCHEMA.names[10:])
REJECTED = pa.schema(
    [
        pa.field("where", pa.string(), nullable=False),
        pa.field("identity", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
PAIRS = pa.schema(
    [
        pa.field("left", pa.int64(), nullable=False),
        pa.field("right", pa.int64(), nullable=False),
        pa.field("same", pa.bool_(), nullable=False),
        pa.field("fold", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of a Benchmark: two manifest rows, whether they show one person, and the fold; one value per pair."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int32]

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.same)
