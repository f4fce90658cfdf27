"""The shapes of the API, version 1: what the forms take and what the answers hold. They are also its documentation."""

# BentoML ships no types for what is subclassed here.
# mypy: disable-error-code="misc"

from __future__ import annotations

from typing import Any, ClassVar, Literal

from bentoml import IODescriptor
from pydantic import BaseModel, Field
from starlette.requests import Request

from serving.model import Analysis


class _Form(IODescriptor):
    """A multipart form that documents itself here and is read by `serving.images.read_form`, never by BentoML."""

    media_type: ClassVar[str | None] = "multipart/form-data"

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> IODescriptor:
        return _Unread()


class _Unread(IODescriptor):
    """Nothing: the endpoint reads the body itself."""


class VerifyForm(_Form):
    image1: bytes = Field(description="first photo, a file: JPEG, PNG or WebP")
    image2: bytes = Field(description="second photo, a file: JPEG, PNG or WebP")


class EmbedForm(_Form):
    image: bytes = Field(description="a photo, a file: JPEG, PNG or WebP")


class FaceFound(BaseModel):
    """The face that was used. Pixels of the upright image (after EXIF rotation), origin at the top left."""

    box: tuple[float, float, float, float] = Field(description="x1, y1, x2, y2")
    detection_score: float = Field(description="the detector's confidence, 0 to 1")
    landmarks: list[tuple[float, float]] = Field(description="the picture's left eye, right eye, nose, mouth corners")
    count: int = Field(description="how many faces the image holds; the model's policy chose this one")
    size: tuple[int, int] = Field(description="width and height of the upright image")

    @classmethod
    def of(cls, analysis: Analysis) -> FaceFound:
        face = analysis.face
        return cls(
            box=face.box,
            detection_score=face.detection_score,
            landmarks=list(face.landmarks),
            count=analysis.faces,
            size=(analysis.width, analysis.height),
        )


class VerifyAnswer(IODescriptor):
    verdict: Literal["same", "different"] = Field(description="same when similarity reaches the threshold")
    similarity: float = Field(description="cosine of the two embeddings, -1 to 1")
    threshold: float = Field(description="the calibrated similarity from which two photos count as one person")
    false_match_rate: float = Field(description="share of pairs of strangers that score at least this similarity")
    false_match_rate_floor: float = Field(
        description="the finest rate the calibration data can show; a false_match_rate equal to it may be lower in truth"
    )
    model: str = Field(description="digest of the model package that answered")
    synthetic: bool = Field(description="whether the model was trained on drawn people")
    faces: list[FaceFound] = Field(description="the face used in image1 and in image2")
    cached: list[bool] = Field(description="whether the embedding of image1, image2 came from the cache")
    timings_ms: dict[str, float] = Field(description="milliseconds spent per stage, both images added, and in total")


class EmbedAnswer(IODescriptor):
    embedding: list[float] = Field(description="unit-length embedding")
    model: str = Field(description="digest of the model package; embeddings of two models must not be compared")
    box: tuple[float, float, float, float] = Field(description="x1, y1, x2, y2 in pixels of the upright image")
    detection_score: float = Field(description="the detector's confidence, 0 to 1")
    landmarks: list[tuple[float, float]] = Field(description="the picture's left eye, right eye, nose, mouth corners")
    cached: bool = Field(description="whether the embedding came from the cache")
    timings_ms: dict[str, float] = Field(description="milliseconds spent per stage, and in total")
