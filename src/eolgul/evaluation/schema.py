"""What `metrics.json` holds, as typed models: the source of its published JSON schema, `metrics.schema.json` beside this.

Write the schema anew after a change of these models: `python -m eolgul.evaluation.schema`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema

FILE = Path(__file__).with_name("metrics.schema.json")

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Cosine = Annotated[float, Field(ge=-1.01, le=1.01)]  # sums of rounded numbers may pass 1 a little
Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Bits = Annotated[float, Field(ge=0)]
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Detector(_Closed):
    min_face_size: Annotated[float, Field(gt=0)]
    thresholds: Annotated[list[Share], Field(min_length=3, max_length=3)]
    factor: Rate
    which: str


class Contract(_Closed):
    """How pixels become an embedding's input."""

    version: Literal[1]
    color: Literal["RGB", "BGR"]
    size: Annotated[int, Field(gt=0)]
    mean: float
    std: float
    template: str
    flip: Literal["sum", "none"]
    detector: Detector


class Model(_Closed):
    digest: Digest
    kind: Literal["ModelPackage", "OnnxRecognizer"]
    backbone: str
    embedding_size: Annotated[int, Field(gt=0)]
    contract: Contract


class Split(_Closed):
    images: Count
    identities: Count


class Splits(_Closed):
    train: Split
    validation: Split
    calibration: Split
    test: Split


class Dataset(_Closed):
    digest: Digest
    synthetic: bool
    name: str | None
    images: Count
    identities: Count
    rejected: Count
    splits: Splits


class Options(_Closed):
    fmr: Rate
    seed: int
    pictures: bool
    resamples: Annotated[int, Field(gt=0)]
    without_anchored: Literal[True] | None = None
    language: Literal["en", "ko"] | None = None


class LikelihoodRatio(_Closed):
    """Natural-log likelihood ratio: slope * similarity + offset, held beyond the scores seen; costs in bits."""

    slope: float
    offset: float
    lowest: Cosine
    highest: Cosine
    cllr: Bits
    min_cllr: Bits


class Calibration(_Closed):
    """The one threshold, on the calibration people."""

    threshold: float
    threshold_interval: Pair
    fmr_requested: Rate
    fmr_target: Rate
    fmr_basis: Literal["requested", "finest_supported"]
    fmr_floor: Rate
    fmr_observed: Share
    fmr_upper: Share
    fnmr_observed: Share
    subjects: Count
    genuine_pairs: Count
    impostor_pairs: Count
    subject_pairs: Count
    resamples: Count
    llr: LikelihoodRatio | None
    histogram_genuine: list[Count] | None = None
    histogram_impostor: list[Count] | None = None


class Accuracy(_Closed):
    """The reference protocol's: mean and population standard deviation over folds."""

    mean: Share
    std: Share
    interval: Pair | None
    folds: list[Share]
    distance_thresholds: list[float]


class TarAtFar(_Closed):
    target: Rate
    tar: Share | None
    std: Share | None
    far: Share | None
    reason: str | None


class Cllr(_Closed):
    carried: Bits | None
    min: Bits | None


class AtThreshold(_Closed):
    threshold: float
    fmr: Share | None
    fmr_interval: Pair | None
    false_matches: Count
    fnmr: Share | None
    fnmr_interval: Pair | None
    false_non_matches: Count
    accuracy: Share
    accuracy_interval: Pair | None


class Best(_Closed):
    threshold: float
    accuracy: Share
    fmr: Share | None
    fnmr: Share | None


class FnmrAtFmr(_Closed):
    fmr: Rate
    fnmr: Share | None
    threshold: float | None
    reason: str | None


class AllPairs(_Closed):
    images: Count
    genuine: Count
    impostor: Count
    subject_pairs: Count
    fmr: Share
    fmr_interval: Pair | None
    false_matches: Count
    fnmr: Share
    fnmr_interval: Pair | None
    false_non_matches: Count


class Interval(_Closed):
    level: Rate
    over: Literal["subjects", "pairs"]
    resamples: Count


class Acquisition(_Closed):
    images: Count
    failed: Count
    rate: Share | None
    by_reason: dict[str, Count]
    pairs_lost: Count | None


class Generalized(_Closed):
    """Error rates with failures to acquire counted as refusals (ISO/IEC 19795-1)."""

    basis: Literal["pairs", "images"]
    not_compared: Share
    gfrr: Share | None
    gfar: Share | None


class Set(_Closed):
    name: str
    kind: Literal["held-out", "benchmark"]
    digest: Digest
    synthetic: bool
    pairs: Count
    genuine: Count
    impostor: Count
    folds: Count
    identities: Count | None
    subject_pairs: Count | None
    accuracy: Accuracy
    tar_at_far: TarAtFar
    auc: Share | None
    auc_interval: Pair | None
    eer: Share | None
    cllr: Cllr
    at_threshold: AtThreshold | None
    best: Best
    fnmr_at_fmr: list[FnmrAtFmr]
    all_pairs: AllPairs | None
    interval: Interval
    acquisition: Acquisition
    generalized: Generalized | None


class Condition(_Closed):
    value: str
    genuine: Annotated[int, Field(gt=0)]
    errors: Count
    fnmr: Share
    interval: Pair | None
    yaw: Annotated[int, Field(ge=-90, le=90)] | None = None
    pitch: Annotated[int, Field(ge=-90, le=90)] | None = None


class Breakdown(_Closed):
    source: list[Condition] | None = None
    camera: list[Condition] | None = None
    light: list[Condition] | None = None
    expression: list[Condition] | None = None
    accessory: list[Condition] | None = None
    resolution: list[Condition] | None = None


class Group(AllPairs):
    group: str
    people: Count
    fmr_ratio: Annotated[float, Field(ge=0)] | None
    fnmr_ratio: Annotated[float, Field(ge=0)] | None


class Discard(_Closed):
    pairs: Count
    unknown: Count
    discarded: list[Share]
    fnmr: list[Share]


class AuditedSet(_Closed):
    """How many of a set's images and people are in the training split too, bit for bit and name for name."""

    images: Count
    images_in_training: Count
    people_in_training: Count | None


class Audit(_Closed):
    """`people_sharing_images`: how many of the dataset's people share a picture with another (kept together, in training)."""

    people_sharing_images: Count | None
    sets: dict[str, AuditedSet]


class HardPair(_Closed):
    left: str
    right: str
    similarity: Cosine


class Worst(_Closed):
    genuine: list[HardPair]
    impostor: list[HardPair]


class PublishedRow(_Closed):
    model: str
    accuracy: dict[str, Share | None]


class Published(_Closed):
    pairs: dict[str, Count]
    rows: list[PublishedRow]


class Metrics(_Closed):
    """All figures of an evaluation. Rates are shares of 1, similarities cosines; intervals are 95 %, [low, high]."""

    format: Literal[1]
    synthetic: bool
    model: Model
    dataset: Dataset | None
    options: Options
    calibration: Calibration | None
    sets: Annotated[dict[str, Set], Field(min_length=1)]
    breakdown: Breakdown
    groups: list[Group]
    quality: dict[str, Discard]
    audit: Audit | None
    worst: Worst
    published: Published | None


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of `metrics.json`."""
    return {"$schema": GenerateJsonSchema.schema_dialect, "title": "metrics.json of an eolgul Evaluation"} | {
        key: value for key, value in Metrics.model_json_schema().items() if key != "title"
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(json_schema(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
