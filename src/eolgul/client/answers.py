"""What the service answers, version 1 of its API. Unknown fields are passed over, so that a newer service still works.

Boxes (x1, y1, x2, y2), landmarks (the picture's left eye, right eye, nose, mouth corners) and sizes (width, height) are
in pixels of the upright image, origin at the top left. `model` is the digest of the model package that answered.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Box = tuple[float, float, float, float]
Point = tuple[float, float]
Interval = tuple[float, float]
Word = Literal["same", "different", "undecided"]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Quality(_Answer):
    """How usable a face is: variance of the Laplacian, mean and standard deviation of the grey levels (0 to 255), degrees
    the head is turned, pixels between the eyes. None where the service gives none."""

    sharpness: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    yaw: float | None = None
    inter_eye_distance: float | None = None


class Face(_Answer):
    """The face that was used; `count` is how many the image holds."""

    box: Box
    detection_score: float
    landmarks: tuple[Point, ...]
    count: int
    size: tuple[int, int]
    quality: Quality = Quality()


class Comparison(_Answer):
    """`similarity` is the cosine of two embeddings; `false_match_rate` the share of pairs of strangers that score at
    least as high, never below the floor that the calibration data can show; its interval is (low, high)."""

    verdict: Word
    same_at_threshold: bool | None = None
    similarity: float
    false_match_rate: float
    false_match_rate_interval: Interval | None = None
    log_likelihood_ratio: float | None = None


class Verification(Comparison):
    """`faces` and `cached` (the embedding was known already) are of the first and the second image."""

    threshold: float
    threshold_interval: Interval
    false_match_rate_floor: float
    model: str
    synthetic: bool
    faces: tuple[Face, Face]
    cached: tuple[bool, bool]
    timings_ms: dict[str, float]


class Problem(_Answer):
    code: str
    detail: str


class OneOfMany(_Answer):
    """What came of the image at `index` of `others`: a comparison and the face that was used, or a problem."""

    index: int
    comparison: Comparison | None = None
    face: Face | None = None
    problem: Problem | None = None


class ManyVerifications(_Answer):
    model: str
    synthetic: bool
    threshold: float
    threshold_interval: Interval
    false_match_rate_floor: float
    face: Face
    results: tuple[OneOfMany, ...]
    timings_ms: dict[str, float]


class Embedding(_Answer):
    """`embedding` has unit length. Compare embeddings of one `model` only."""

    embedding: tuple[float, ...]
    model: str
    face: Face
    cached: bool
    timings_ms: dict[str, float]


class DetectedFace(_Answer):
    """`chosen`: the face that the model's policy would use. `crop`: where asked for, what the network sees, a PNG in base64."""

    box: Box
    detection_score: float
    landmarks: tuple[Point, ...]
    quality: Quality = Quality()
    chosen: bool
    crop: str | None = None


class Detections(_Answer):
    faces: tuple[DetectedFace, ...]
    size: tuple[int, int]
    model: str
    timings_ms: dict[str, float]


class Candidate(_Answer):
    """`template` is the person's template that scored highest."""

    person: str
    similarity: float
    false_match_rate: float
    verdict: Word
    template: str


class Identification(_Answer):
    """Candidates, best first. Templates made by another model were not compared: enroll those people again."""

    candidates: tuple[Candidate, ...]
    people: int
    templates_of_other_models: int
    model: str


class Enrolment(_Answer):
    person: str
    templates: tuple[str, ...]
    templates_total: int
    model: str


class PersonSummary(_Answer):
    """`comparable`: how many of the templates the served model made; with 0 it does not find the person, who must be
    enrolled again. None where an older service does not tell."""

    person: str
    templates: int
    comparable: int | None = None


class PeoplePage(_Answer):
    """`next` is the `after` of the next page, None on the last."""

    people: tuple[PersonSummary, ...]
    next: str | None = None


class Template(_Answer):
    template: str
    created_at: str
    model: str


class Person(_Answer):
    person: str
    templates: tuple[Template, ...]


class Deletion(_Answer):
    """`templates`: how many are gone. `cache_cleared`: whether the embedding cache dropped their images too; where not,
    an embedding may stay there until its time to live ends. None where an older service does not tell."""

    person: str
    templates: int
    cache_cleared: bool | None = None


class CurrentModel(_Answer):
    digest: str
    backbone: str
    embedding_size: int
    synthetic: bool
    threshold: float
    report: str | None = None
