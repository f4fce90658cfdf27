"""The answers of the API, version 1: the service builds and documents them from these models, and the client reads them.

Those about the gallery and the API keys are in `eolgul.client.gallery_answers`.

Boxes (x1, y1, x2, y2), landmarks and sizes (width, height) are in pixels of the upright image (after EXIF rotation), with
the origin at the top left. Unknown fields are ignored, so a client can read the answers of a newer service.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from eolgul.model.region import Reason


class Answer(BaseModel):
    """The base of every model here: immutable, and unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class FaceQuality(Answer):
    """How usable the picture of a face is; measured on the aligned face unless the field says otherwise.

    The fields that may be null are so in answers of older versions.
    """

    sharpness: float = Field(description="variance of the Laplacian")
    brightness: float = Field(description="mean grey level, 0 to 255")
    contrast: float = Field(description="standard deviation of the grey levels")
    yaw: float = Field(description="how far the head is turned, in degrees, estimated from the landmarks")
    inter_eye_distance: float = Field(description="pixels between the eyes in the upright image")
    roll: float | None = Field(default=None, description="how far the head is tilted in the picture, in degrees")
    detail: float | None = Field(
        default=None,
        description="detail in the direction that has least of it, in per cent of the brightness, without noise; low where the picture is "
        "blurred or shaken",
    )
    texture: float | None = Field(
        default=None,
        description="how evenly the detail is spread, 0 to about 1; low where it is in a few edges only, as after a strong "
        "compression",
    )
    noise: float | None = Field(default=None, description="estimated standard deviation of the noise in grey levels")
    overexposed: float | None = Field(default=None, description="share of white pixels, 0 to 1")
    cut: float | None = Field(default=None, description="share of the face that lies outside the picture, 0 to 1")
    norm: float | None = Field(
        default=None,
        description="length of the embedding before it is normalised, small where the network sees little of a face; null in "
        "answers of `detect`, and where the network gives only directions",
    )


class DetectedFace(Answer):
    """A face, in pixels of the upright image (after EXIF rotation), with the origin at the top left."""

    box: tuple[float, float, float, float] = Field(description="x1, y1, x2, y2")
    detection_score: float = Field(description="the detector's confidence, 0 to 1")
    landmarks: tuple[tuple[float, float], ...] = Field(
        description="five points (x, y): the eye on the picture's left, the other eye, the nose, the mouth corners"
    )
    quality: FaceQuality
    reasons: tuple[Reason, ...] = Field(
        default=(),
        description="why this face lies outside the picture quality in which the stated rates hold, most severe first",
    )


class FaceFound(DetectedFace):
    """The face that was used."""

    count: int = Field(
        description="number of faces in the image; `which` chose this one, or the model's policy without it"
    )
    size: tuple[int, int] = Field(description="width and height of the upright image")


class PhotoReason(Answer):
    """Why a photo is of no use for a verdict."""

    image: str = Field(description="the photo: the name of its field in the request, or `template` for an enrolled one")
    reason: Reason


class Comparison(Answer):
    """What the similarity of two photos means.

    With `reasons`, a photo lies outside the picture quality in which the calibration holds: then the verdict is `undecided`,
    and the false match rate, its interval and the likelihood ratio are null, since no number is known to hold.
    """

    verdict: Literal["same", "different", "undecided"] = Field(
        description="`same` at or above the 95 % interval of the threshold, `different` below it, `undecided` inside it or "
        "with `reasons`"
    )
    reasons: tuple[PhotoReason, ...] = Field(
        default=(),
        description="why the photos are of no use for a verdict, most severe first; empty where they are, or where nobody looked "
        "(`quality_rule`)",
    )
    same_at_threshold: bool = Field(description="whether the similarity reaches the threshold, whatever its interval")
    similarity: float = Field(description="cosine of the two embeddings, -1 to 1")
    false_match_rate: float | None = Field(
        description="share of pairs of strangers that score at least this similarity; null with `reasons`"
    )
    false_match_rate_interval: tuple[float, float] | None = Field(
        description="95 % interval of that rate over the calibration people; null with `reasons`, or if the calibration has none"
    )
    log_likelihood_ratio: float | None = Field(
        description="natural logarithm; positive values support one person, negative values two; null with `reasons`, or if the "
        "calibration has no such map"
    )


class ModelAnswer(Answer):
    """The fields that every answer of a model has."""

    model: str = Field(
        description="digest of the model package that answered; embeddings of different models must not be compared"
    )
    synthetic: bool = Field(description="whether drawn people were among the model's training data")
    timings_ms: dict[str, float] = Field(
        description="milliseconds per stage, summed over the images, and in total; `shared` is the time spent waiting for "
        "another request that analysed the same image"
    )


QualityRule = Literal["on", "off", "unknown"]
_QUALITY_RULE = (
    "whether photos are held against the picture quality in which the calibration holds: `on`; `off` by a setting of the "
    "service; `unknown` where the model's calibration does not say what that quality is"
)


class Threshold(Answer):
    """The calibrated threshold of the model that answered."""

    threshold: float = Field(description="the calibrated similarity from which two photos count as one person")
    threshold_interval: tuple[float, float] = Field(description="its 95 % interval over the calibration people")
    false_match_rate_floor: float = Field(
        description="the lowest rate that the calibration data can show; a false_match_rate equal to it may be lower in "
        "truth"
    )
    quality_rule: QualityRule = Field(default="unknown", description=_QUALITY_RULE)


class FacePair(Comparison):
    """The comparison of one face of image1 with one of image2."""

    face1: int = Field(description="index in `faces1`, from 0")
    face2: int = Field(description="index in `faces2`, from 0")


class VerifyAnswer(Comparison, Threshold, ModelAnswer):
    """Whether two photos show the same person.

    With `which=all`, the comparison is that of the best pair: the most similar of those that have no `reasons`, or of all if every
    pair has. Among n pairs of strangers, the chance that one is as similar is up to n times the false match rate.
    """

    faces: tuple[FaceFound, ...] = Field(description="the face used in image1 and the one used in image2")
    cached: tuple[bool, ...] = Field(description="for image1 and image2, whether the embedding came from the cache")
    faces1: tuple[FaceFound, ...] = Field(
        default=(), description="with `which=all`, every face of image1, largest first"
    )
    faces2: tuple[FaceFound, ...] = Field(
        default=(), description="with `which=all`, every face of image2, largest first"
    )
    pairs: tuple[FacePair, ...] = Field(
        default=(), description="with `which=all`, each face of image1 with each of image2, the best pair first"
    )


class VerifyEmbeddingAnswer(Comparison, Threshold, ModelAnswer):
    """Whether an embedding that the caller kept is of the person in a photo, or of another embedding.

    Nothing says how good a photo an embedding was made from, unless its `face` comes with it. With `unknown_quality` and the
    `quality_rule` on, the verdict is `undecided` and the rates are null.
    """

    face: FaceFound | None = Field(description="the face used in image; null if two embeddings were compared")
    cached: bool = Field(description="whether the embedding of image came from the cache")
    unknown_quality: tuple[str, ...] = Field(
        description="the fields of embeddings that came without the quality of their face"
    )


class VerifyPersonAnswer(Comparison, Threshold, ModelAnswer):
    """Whether a photo shows a person of the gallery: the comparison with the person's most similar template."""

    person: str
    template: str = Field(description="the template that was most similar")
    templates: int = Field(description="number of templates compared")
    templates_of_other_models: int = Field(description="templates of the person that this model cannot compare")
    face: FaceFound
    cached: bool = Field(description="whether the embedding of image came from the cache")


class Problem(Answer):
    """RFC 9457 problem details; `code` is stable."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    reasons: tuple[Reason, ...] | None = Field(default=None, description="with the code `low_quality`")


class OneOfMany(Answer):
    """The comparison with one of `others`, or the problem with that image."""

    index: int = Field(description="index in `others`, from 0")
    comparison: Comparison | None = None
    face: FaceFound | None = None
    problem: Problem | None = None


class VerifyManyAnswer(Threshold, ModelAnswer):
    """One photo compared with several others."""

    face: FaceFound = Field(description="the face used in image")
    results: tuple[OneOfMany, ...] = Field(description="one result per image of `others`, in the same order")


class EmbeddedFace(Answer):
    """One face of a photo with its embedding."""

    embedding: tuple[float, ...] = Field(description="embedding of unit length")
    face: FaceFound


class EmbedAnswer(ModelAnswer):
    """The embedding of a photo's face."""

    embedding: tuple[float, ...] = Field(description="embedding of unit length")
    face: FaceFound
    box: tuple[float, float, float, float] = Field(description="face.box")
    detection_score: float = Field(description="face.detection_score")
    landmarks: tuple[tuple[float, float], ...] = Field(description="face.landmarks")
    cached: bool = Field(description="whether the embedding came from the cache")
    faces: tuple[EmbeddedFace, ...] = Field(
        default=(), description="with `which=all`, every face, largest first; the first is the one above"
    )


class EmbeddedImage(Answer):
    """The embedding of one of `images`, or the problem with that image."""

    index: int = Field(description="index in `images`, from 0")
    embedding: tuple[float, ...] | None = Field(default=None, description="embedding of unit length")
    face: FaceFound | None = None
    cached: bool = Field(default=False, description="whether the embedding came from the cache")
    problem: Problem | None = None


class EmbedManyAnswer(ModelAnswer):
    """The embeddings of several photos."""

    results: tuple[EmbeddedImage, ...] = Field(description="one result per image of `images`, in the same order")


class KnownFace(Answer):
    """What `embed` said about the face of an embedding."""

    detection_score: float
    quality: FaceQuality


class KnownEmbedding(Answer):
    """An embedding that the caller kept: what `embed` answered, other fields are ignored."""

    embedding: tuple[Annotated[float, Field(strict=True)], ...] = Field(
        max_length=4096, description="as `embed` answered it, of unit length"
    )
    model: str = Field(max_length=64, description="digest of the model that made it; only that model can compare it")
    face: KnownFace | None = Field(
        default=None,
        description="the face that `embed` answered with it: without its quality nothing says which rate holds, and the verdict "
        "is `undecided` (with the `quality_rule` on)",
    )


class FoundFace(DetectedFace):
    """One of the faces of a photo."""

    chosen: bool = Field(description="whether the model's policy chooses this face")
    crop: str | None = Field(
        default=None, description="with `crops=true`, the aligned face as the recognizer sees it: PNG as base64"
    )


class DetectAnswer(ModelAnswer):
    """Every face in a photo, highest score first; a photo without faces is not an error."""

    faces: tuple[FoundFace, ...]
    size: tuple[int, int] = Field(description="width and height of the upright image")


class CurrentModel(Answer):
    """The served model: what it is, what it was trained on and how it was calibrated and evaluated."""

    digest: str
    backbone: str
    embedding_size: int
    contract: dict[str, Any] = Field(description="the embedding contract, as in the package's config.json")
    synthetic: bool = Field(description="whether drawn people were among the training data")
    threshold: float
    threshold_interval: tuple[float, float]
    calibration: dict[str, Any]
    quality_rule: QualityRule = Field(default="unknown", description=_QUALITY_RULE)
    false_match_rate: float = Field(description="at the threshold")
    false_match_rate_interval: tuple[float, float] | None
    training: dict[str, Any] | None = Field(description="null if the package does not say")
    sets: tuple[dict[str, Any], ...] = Field(description="the figures of each evaluated set")
    card: str | None = Field(description="path of the model card's HTML; null if there is none")
    report: str | None = Field(description="path of the evaluation report; null if there is none")
