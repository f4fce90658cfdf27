"""The figures of an evaluation as typed models: evaluate builds them, `metrics.json` holds them, readers get them back.

They are also the source of the JSON schema published beside this file, `metrics.schema.json`. Write it again after a
change of these models: `python -m eolgul.evaluation.schema`.

Rates and accuracies are shares of 1, similarities are cosines, intervals are 95 % (low, high). A rate that cannot be
computed is None; where there is a `reason`, it says why. Error rates are those of ISO/IEC 19795-1: FMR (false match
rate) and FNMR (false non-match rate).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema

from eolgul.evaluation.bootstrap import Interval

FILE = Path(__file__).with_name("metrics.schema.json")
METRICS_FORMAT: Final = 1
FMR_LEVELS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # the false match rates at which FNMR is given

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Cosine = Annotated[float, Field(ge=-1.01, le=1.01)]  # a sum of rounded products may exceed 1 a little
Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Bits = Annotated[float, Field(ge=0)]
Number = Annotated[int | float, WithJsonSchema({"type": "number"})]  # kept as it is written: 40 does not become 40.0
SetKind = Literal["held-out", "benchmark"]
ModelKind = Literal["ModelPackage", "OnnxRecognizer"]
Bounds = Annotated[
    Interval,
    Strict(False),  # JSON has no tuples
    WithJsonSchema({"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}),
]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ContractDetector(_Closed):
    """The face detector that the embedding contract asks for."""

    min_face_size: Annotated[int | float, Field(gt=0), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})]
    thresholds: Annotated[tuple[Share, Share, Share], Strict(False)]
    factor: Rate
    which: str


class Contract(_Closed):
    """How pixels become an embedding's input."""

    version: Literal[1]
    color: Literal["RGB", "BGR"]
    size: Annotated[int, Field(gt=0)]
    mean: Number
    std: Number
    template: str
    flip: Literal["sum", "none"]
    detector: ContractDetector


class MeasuredModel(_Closed):
    """The model that was measured."""

    digest: Digest
    kind: ModelKind
    backbone: str
    embedding_size: Annotated[int, Field(gt=0)]
    contract: Contract


class SplitSize(_Closed):
    """The size of one split."""

    images: Count
    identities: Count


class SplitSizes(_Closed):
    """The sizes of the dataset's splits."""

    train: SplitSize
    validation: SplitSize
    calibration: SplitSize
    test: SplitSize


class MeasuredDataset(_Closed):
    """The assembled dataset whose test people are the held-out set and whose calibration people give the threshold."""

    digest: Digest
    synthetic: bool
    name: str | None
    images: Count
    identities: Count
    rejected: Count
    splits: SplitSizes


class EvaluationOptions(_Closed):
    """The options that decide the figures. An option left out has its default value."""

    fmr: Rate
    seed: int
    pictures: bool
    resamples: Annotated[int, Field(gt=0)]
    without_anchored: Literal[True] | None = None
    unseen_only: Literal[True] | None = None
    quality_images: Count | None = None
    language: Literal["en", "ko"] | None = None


class LikelihoodRatio(_Closed):
    """Natural-log likelihood ratio: slope * similarity + offset, constant below `lowest` and above `highest`.

    `cllr` and `min_cllr` are its costs on the calibration people, in bits.
    """

    slope: float
    offset: float
    lowest: Cosine
    highest: Cosine
    cllr: Bits
    min_cllr: Bits


class DegradedRate(_Closed):
    """The error rates of calibration faces degraded in one way (`kind`, "none": as they are) to one strength.

    `value` is the median of the `measure` that this kind changes, `images_inside` the share of faces inside the region,
    `fmr_inside` the share of impostor pairs that pass with both faces inside.
    """

    kind: str
    strength: float
    measure: str
    value: float | None
    images_inside: Share
    impostor_pairs: Count
    fmr: Share
    fmr_inside: Share
    genuine_pairs: Count
    fnmr: Share | None


class QualityRegion(_Closed):
    """The picture quality in which the false match rate holds.

    `limits`: the least and the greatest value of each measure, None where there is no limit. Outside, the rate at the
    threshold exceeds `fmr_allowed`. `lost`: share of the genuine pairs of faces as they are that lie outside.
    """

    limits: dict[str, Annotated[list[float | None], Field(min_length=2, max_length=2)]]
    fmr_allowed: Annotated[float, Field(ge=0)]
    lost: Share
    images: Count
    people: Count
    rates: list[DegradedRate]


class CalibrationSummary(_Closed):
    """The one threshold and its error rates on the calibration people: `calibration.json` without its table."""

    threshold: float
    threshold_interval: Bounds
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
    region: QualityRegion | None = None


class Accuracy(_Closed):
    """Accuracy by the reference protocol: mean and population standard deviation over folds.

    `folds` and `distance_thresholds` (squared Euclidean distance): one value per fold.
    """

    mean: Share
    std: Share
    interval: Bounds | None
    folds: list[Share]
    distance_thresholds: list[float]


class TarAtFar(_Closed):
    """True accept rate at a false accept rate, by the reference protocol.

    `target` is the FAR that was asked for, `far` the mean FAR on the test folds, `std` the standard deviation of `tar`.
    """

    target: Rate
    tar: Share | None
    std: Share | None
    far: Share | None
    reason: str | None


class Cllr(_Closed):
    """The cost of log-likelihood ratios on a set in bits: 0 is perfect, 1 is no better than no information.

    `carried` is that of the calibrated ratios, `min` that of the best monotone map of this set's own scores.
    """

    carried: Bits | None
    min: Bits | None


class AtThreshold(_Closed):
    """The set's pairs at the one calibrated threshold."""

    threshold: float
    fmr: Share | None
    fmr_interval: Bounds | None
    false_matches: Count
    fnmr: Share | None
    fnmr_interval: Bounds | None
    false_non_matches: Count
    accuracy: Share
    accuracy_interval: Bounds | None


class Best(_Closed):
    """The set's pairs at the threshold that gives this very set its highest accuracy."""

    threshold: float
    accuracy: Share
    fmr: Share | None
    fnmr: Share | None


class FnmrAtFmr(_Closed):
    """FNMR at the threshold that gives this set the FMR `fmr`."""

    fmr: Rate
    fnmr: Share | None
    threshold: float | None
    reason: str | None


class AllPairs(_Closed):
    """Every comparison among some people at the one calibrated threshold."""

    images: Count
    genuine: Count
    impostor: Count
    subject_pairs: Count
    fmr: Share
    fmr_interval: Bounds | None
    false_matches: Count
    fnmr: Share
    fnmr_interval: Bounds | None
    false_non_matches: Count


class IntervalMethod(_Closed):
    """How the set's intervals were computed: their level, and whether over people or pairs.

    `resamples`: of the bootstrap that gives those of accuracy and AUC; error rates have a jackknife's, which draws nothing.
    """

    level: Rate
    over: Literal["subjects", "pairs"]
    resamples: Count


class Acquisition(_Closed):
    """Failures to acquire: images that gave no usable face (`eolgul.errors.Reason`), and pairs that a benchmark lost.

    `images` counts the images that did give one; `rate` is failed / (failed + images).
    """

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


class SetFigures(_Closed):
    """All figures of one set of pairs."""

    name: str
    kind: SetKind
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
    auc_interval: Bounds | None
    eer: Share | None
    cllr: Cllr
    at_threshold: AtThreshold | None
    best: Best
    fnmr_at_fmr: list[FnmrAtFmr]
    all_pairs: AllPairs | None
    interval: IntervalMethod
    acquisition: Acquisition
    generalized: Generalized | None


class Condition(_Closed):
    """FNMR of the genuine pairs with one value of a condition; `yaw` and `pitch` (degrees) where it is a camera."""

    value: str
    genuine: Annotated[int, Field(gt=0)]
    errors: Count
    fnmr: Share
    interval: Bounds | None
    yaw: Annotated[int, Field(ge=-90, le=90)] | None = None
    pitch: Annotated[int, Field(ge=-90, le=90)] | None = None


class Breakdown(_Closed):
    """FNMR by condition of the images; a condition that is unknown, or the same everywhere, is left out.

    The fields are columns of the manifest, in the order of the report.
    """

    source: list[Condition] | None = None
    camera: list[Condition] | None = None
    light: list[Condition] | None = None
    expression: list[Condition] | None = None
    accessory: list[Condition] | None = None
    resolution: list[Condition] | None = None


class Group(AllPairs):
    """Every comparison within one group of people; the ratios are to the rates over all people."""

    group: str
    people: Count
    fmr_ratio: Annotated[float, Field(ge=0)] | None
    fnmr_ratio: Annotated[float, Field(ge=0)] | None


class Discard(_Closed):
    """FNMR when a share of the genuine pairs, those of least quality, is left out.

    `discarded` and `fnmr`: one value per share. `unknown` pairs have no value of this quality and are not among `pairs`.
    """

    pairs: Count
    unknown: Count
    discarded: list[Share]
    fnmr: list[Share]


class SetLeakage(_Closed):
    """How many of a set's images and people the model learned from; None where that is unknown.

    Images are compared by their bytes, people by name and by their images. `people` and `people_in_training` are None
    where the set does not identify its people.
    """

    images: Count
    people: Count | None
    images_in_training: Count | None
    people_in_training: Count | None


class Leakage(_Closed):
    """What the sets share with what the model learned from.

    `known`: "all" of it, "part" (the weights that training began with have an unknown past, so a figure is at least what
    it says, and no zero is known) or "none" (imported weights, an ONNX file, a package of an older version).
    `people_sharing_images`: how many of the dataset's people share an image with another (kept together, in training).
    `left_out`: whether held-out and calibration people that the model learned from are left out of every other figure.
    `calibration`: the people that the threshold was chosen on.
    """

    known: Literal["all", "part", "none"]
    people_sharing_images: Count | None
    left_out: bool
    sets: dict[str, SetLeakage]
    calibration: SetLeakage | None


class Epoch(_Closed):
    """The losses after one epoch of the model's training.

    `train` is the mean loss of its steps. `training_people` and `validation_people` are the closed-set loss of people it
    learns from (as many, and None where they are too few) and of people it does not, both without margin: these two compare.
    """

    epoch: Annotated[int, Field(gt=0)]
    train: float
    training_people: float | None
    validation_people: float


class Training(_Closed):
    """The curve of the model's training, and the epoch whose weights the package has."""

    epochs: Annotated[list[Epoch], Field(min_length=1)]
    best_epoch: Annotated[int, Field(gt=0)]


class HardPair(_Closed):
    """A pair by the ids of its images."""

    left: str
    right: str
    similarity: Cosine


class Worst(_Closed):
    """The genuine pairs with the lowest similarity and the impostor pairs with the highest."""

    genuine: list[HardPair]
    impostor: list[HardPair]


class PublishedRow(_Closed):
    """One model's published accuracy per set, None where none is published."""

    model: str
    accuracy: dict[str, Share | None]


class Published(_Closed):
    """Published results of other models on the measured sets; `pairs` is the full number of pairs per set."""

    pairs: dict[str, Count]
    rows: list[PublishedRow]


class Metrics(_Closed):
    """All figures of an evaluation. Rates are shares of 1, similarities cosines; intervals are 95 %, [low, high]."""

    format: Literal[1]
    synthetic: bool
    model: MeasuredModel
    dataset: MeasuredDataset | None
    options: EvaluationOptions
    calibration: CalibrationSummary | None
    sets: Annotated[dict[str, SetFigures], Field(min_length=1)]
    breakdown: Breakdown
    groups: list[Group]
    quality: dict[str, Discard]
    audit: Leakage | None
    training: Training | None = None
    worst: Worst
    published: Published | None

    def to_json(self) -> dict[str, Any]:
        """The value that `metrics.json` holds: optional keys that nobody set are left out."""
        return self.model_dump(exclude_unset=True)


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of `metrics.json`."""
    return {"$schema": GenerateJsonSchema.schema_dialect, "title": "metrics.json of an eolgul Evaluation"} | {
        key: value for key, value in Metrics.model_json_schema().items() if key != "title"
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(json_schema(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
