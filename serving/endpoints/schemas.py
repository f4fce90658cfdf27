"""The shapes of the API, version 1: what requests bring and what the answers hold. They are also its documentation."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from eolgul.serving.endpoints.body import Wanted
from eolgul.serving.inference.model import Analysis, Face, ServedModel, Verdict


class FaceQuality(BaseModel):
    """How good the picture of a face is, measured on the aligned face unless said otherwise."""

    sharpness: float = Field(description="variance of the Laplacian")
    brightness: float = Field(description="mean grey level, 0 to 255")
    contrast: float = Field(description="standard deviation of the grey levels")
    yaw: float = Field(description="how far the head is turned, estimated from the landmarks, degrees")
    inter_eye_distance: float = Field(description="pixels between the eyes in the upright image")


class DetectedFace(BaseModel):
    """A face. Pixels of the upright image (after EXIF rotation), origin at the top left."""

    box: tuple[float, float, float, float] = Field(description="x1, y1, x2, y2")
    detection_score: float = Field(description="the detector's confidence, 0 to 1")
    landmarks: list[tuple[float, float]] = Field(description="the picture's left eye, right eye, nose, mouth corners")
    quality: FaceQuality

    @classmethod
    def facts(cls, face: Face) -> dict[str, Any]:
        return {
            "box": face.box,
            "detection_score": face.detection_score,
            "landmarks": list(face.landmarks),
            "quality": FaceQuality(**face.quality),
        }


class FaceFound(DetectedFace):
    """The face that was used."""

    count: int = Field(description="how many faces the image holds; the model's policy chose this one")
    size: tuple[int, int] = Field(description="width and height of the upright image")

    @classmethod
    def of(cls, analysis: Analysis) -> Self:
        size = (analysis.width, analysis.height)
        return cls(**cls.facts(analysis.face), count=analysis.faces, size=size)


class Comparison(BaseModel):
    """What two photos' similarity means."""

    verdict: Literal["same", "different", "undecided"] = Field(
        description="same at or above the threshold's 95 % interval, different below it, undecided inside it"
    )
    same_at_threshold: bool = Field(description="whether the similarity reaches the threshold, interval or not")
    similarity: float = Field(description="cosine of the two embeddings, -1 to 1")
    false_match_rate: float = Field(description="share of pairs of strangers that score at least this similarity")
    false_match_rate_interval: tuple[float, float] | None = Field(
        description="95 % interval of that rate over the calibration people; null for a calibration without one"
    )
    log_likelihood_ratio: float | None = Field(
        description="natural logarithm; above 0 speaks for one person, below 0 for two; null without such a calibration"
    )

    @classmethod
    def facts(cls, verdict: Verdict) -> dict[str, Any]:
        return {
            "verdict": verdict.word,
            "same_at_threshold": verdict.same_at_threshold,
            "similarity": verdict.similarity,
            "false_match_rate": verdict.false_match_rate,
            "false_match_rate_interval": verdict.false_match_rate_interval,
            "log_likelihood_ratio": verdict.log_likelihood_ratio,
        }


class ModelAnswer(BaseModel):
    """What every answer of a model says."""

    model: str = Field(description="digest of the model package that answered; embeddings of two must not be compared")
    synthetic: bool = Field(description="whether drawn people were among the model's training data")
    timings_ms: dict[str, float] = Field(
        description="milliseconds per stage, all images added, and in total; `shared`: waited for an equal image's analysis"
    )


class Threshold(BaseModel):
    threshold: float = Field(description="the calibrated similarity from which two photos count as one person")
    threshold_interval: tuple[float, float] = Field(description="its 95 % interval over the calibration people")
    false_match_rate_floor: float = Field(
        description="the finest rate the calibration data can show; a false_match_rate equal to it may be lower in truth"
    )

    @classmethod
    def facts_of(cls, model: ServedModel) -> dict[str, Any]:
        calibration = model.calibration
        return {
            "threshold": calibration.threshold,
            "threshold_interval": calibration.threshold_interval,
            "false_match_rate_floor": calibration.fmr_floor,
        }


class VerifyAnswer(Comparison, Threshold, ModelAnswer):
    """Are two photos of one person?"""

    faces: list[FaceFound] = Field(description="the face used in image1 and in image2")
    cached: list[bool] = Field(description="whether the embedding of image1, image2 came from the cache")


class Problem(BaseModel):
    """RFC 9457 problem details; `code` is stable."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None


class OneOfMany(BaseModel):
    """The comparison with one of `others`, or the problem with that image."""

    index: int = Field(description="place in `others`, from 0")
    comparison: Comparison | None = None
    face: FaceFound | None = None
    problem: Problem | None = None


class VerifyManyAnswer(Threshold, ModelAnswer):
    """One photo against many."""

    face: FaceFound = Field(description="the face used in image")
    results: list[OneOfMany] = Field(description="one for each of `others`, in their order")


class EmbedAnswer(ModelAnswer):
    """The embedding of a photo's face."""

    embedding: list[float] = Field(description="unit-length embedding")
    face: FaceFound
    box: tuple[float, float, float, float] = Field(description="face.box")
    detection_score: float = Field(description="face.detection_score")
    landmarks: list[tuple[float, float]] = Field(description="face.landmarks")
    cached: bool = Field(description="whether the embedding came from the cache")


class FoundFace(DetectedFace):
    chosen: bool = Field(description="whether the model's policy takes this one")
    crop: str | None = Field(
        default=None, description="with `crops=true`, the aligned face as the recognizer sees it: PNG as base64"
    )


class DetectAnswer(ModelAnswer):
    """Every face in a photo, best score first; none is no error."""

    faces: list[FoundFace]
    size: tuple[int, int] = Field(description="width and height of the upright image")


def request_body(wanted: Wanted) -> dict[str, Any]:
    """The OpenAPI request body of what `eolgul.serving.endpoints.body.read_body` takes for `wanted`."""
    photo = "JPEG, PNG or WebP"

    def form(binary: bool) -> dict[str, Any]:
        one: dict[str, Any] = {"type": "string", "description": photo + ("" if binary else ", as base64")}
        one |= {"format": "binary"} if binary else {"contentEncoding": "base64"}
        fields: dict[str, Any] = {
            name: one if most == 1 else {"type": "array", "items": one, "minItems": 1, "maxItems": most}
            for name, most in wanted.images.items()
        }
        fields |= {name: {"type": "string", "minLength": 1, "maxLength": 128} for name in wanted.texts}
        return {"schema": {"type": "object", "properties": fields, "required": list(fields)}}

    content = {"multipart/form-data": form(True), "application/json": form(False)}
    if wanted.single:
        raw = {"schema": {"type": "string", "format": "binary"}}
        content |= {"image/jpeg": raw, "image/png": raw, "image/webp": raw, "application/octet-stream": raw}
    return {"requestBody": {"required": True, "content": content}}
