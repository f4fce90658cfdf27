"""The endpoints that take photos: verify, verify/many, embed and detect."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter, Query, Request
from numpy.typing import NDArray
from starlette.responses import Response

from eolgul.client.answers import (
    Comparison,
    DetectAnswer,
    EmbedAnswer,
    FoundFace,
    OneOfMany,
    Problem,
    VerifyAnswer,
    VerifyManyAnswer,
)
from eolgul.errors import InputError
from eolgul.images.decode import encode_png
from eolgul.serving import metrics, problems
from eolgul.serving.endpoints.answers import comparison_fields, face_fields, threshold_fields, used_face
from eolgul.serving.endpoints.body import ExpectedBody
from eolgul.serving.endpoints.call import ONE_IMAGE, admitted_call, json_response, openapi_answers
from eolgul.serving.inference.model import Verdict
from eolgul.serving.problems import RejectionError
from eolgul.serving.settings import Settings

TWO_IMAGES = ExpectedBody({"image1": 1, "image2": 1})
router = APIRouter(prefix="/v1", tags=["faces"])


def _count(verdict: Verdict) -> Verdict:
    metrics.VERDICTS.labels(verdict.word).inc()
    if verdict.reasons:
        metrics.LOW_QUALITY.labels(verdict.reasons[0][1]).inc()
    metrics.SIMILARITY.observe(verdict.similarity)
    return verdict


def _image_and_others(max_comparisons: int) -> ExpectedBody:
    return ExpectedBody({"image": 1, "others": max_comparisons})


@router.post("/verify", responses=openapi_answers(VerifyAnswer), openapi_extra=TWO_IMAGES.openapi())
async def verify(request: Request) -> Response:
    """Compare two photos: same person, different people, or undecided, and how often strangers score as high."""
    async with admitted_call(request, "verify") as call:
        body = await call.read_body(TWO_IMAGES)
        (left, left_cached), (right, right_cached) = await call.analyse(
            [(name, body.image(name)) for name in TWO_IMAGES.images]
        )
        verdict = _count(call.model.verify(left, right))
        return json_response(
            VerifyAnswer(
                **comparison_fields(verdict),
                **threshold_fields(call.model),
                **call.answer_fields(),
                faces=(used_face(left), used_face(right)),
                cached=(left_cached, right_cached),
            )
        )


@router.post(
    "/verify/many",
    responses=openapi_answers(VerifyManyAnswer),
    openapi_extra=_image_and_others(Settings.model_fields["max_comparisons"].default).openapi(),
)
async def verify_many(request: Request) -> Response:
    """Compare one photo with several others. An unusable photo among `others` gets a problem as its result."""
    async with admitted_call(request, "verify") as call:
        body = await call.read_body(_image_and_others(call.state.settings.max_comparisons))
        images = [("image", body.image("image")), *(("others", data) for data in body.images["others"])]
        first, *others = await call.analyse_each(images)
        if isinstance(first, RejectionError):
            raise first
        results = []
        for index, other in enumerate(others):
            if isinstance(other, RejectionError):
                problem = Problem(**problems.document(other.code, str(other), field=other.field))
                results.append(OneOfMany(index=index, problem=problem))
                continue
            verdict = _count(call.model.verify(first[0], other[0], ("image", "others")))
            comparison = Comparison(**comparison_fields(verdict))
            results.append(OneOfMany(index=index, comparison=comparison, face=used_face(other[0])))
        return json_response(
            VerifyManyAnswer(
                **threshold_fields(call.model), **call.answer_fields(), face=used_face(first[0]), results=tuple(results)
            )
        )


@router.post("/embed", responses=openapi_answers(EmbedAnswer), openapi_extra=ONE_IMAGE.openapi())
async def embed(request: Request) -> Response:
    """Embed the face of a photo (unit length). Compare only embeddings of the same model."""
    async with admitted_call(request, "embed") as call:
        body = await call.read_body(ONE_IMAGE)
        [(analysis, cached)] = await call.analyse([("image", body.image("image"))])
        face = used_face(analysis)
        return json_response(
            EmbedAnswer(
                **call.answer_fields(),
                embedding=analysis.embedding.tolist(),
                face=face,
                box=face.box,
                detection_score=face.detection_score,
                landmarks=face.landmarks,
                cached=cached,
            )
        )


@router.post("/detect", responses=openapi_answers(DetectAnswer), openapi_extra=ONE_IMAGE.openapi())
async def detect(
    request: Request, crops: bool = Query(False, description="also return each face's aligned crop")
) -> Response:
    """Find every face in a photo, with its quality; `chosen` marks the one that verify would use."""
    async with admitted_call(request, "detect") as call:
        body = await call.read_body(ONE_IMAGE)
        try:
            detection, timings = await call.run_while_connected(
                call.state.engine.detect(call.model, body.image("image"))
            )
        except InputError as error:
            raise RejectionError(str(error), error.code, "image") from error
        call.add_timings(timings)
        encoded = await asyncio.to_thread(_base64_pngs, detection.aligned) if crops else [None] * len(detection.faces)
        faces = [
            FoundFace(**face_fields(face), chosen=row == detection.chosen, crop=encoded[row])
            for row, face in enumerate(detection.faces)
        ]
        return json_response(
            DetectAnswer(**call.answer_fields(), faces=tuple(faces), size=(detection.width, detection.height))
        )


def _base64_pngs(pictures: Sequence[NDArray[np.uint8]]) -> list[str | None]:
    return [base64.b64encode(encode_png(picture)).decode() for picture in pictures]
