"""The endpoints that take photos: verify, verify/many, embed, embed/many and detect."""

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
    EmbeddedFace,
    EmbeddedImage,
    EmbedManyAnswer,
    FacePair,
    FoundFace,
    OneOfMany,
    Problem,
    VerifyAnswer,
    VerifyManyAnswer,
)
from eolgul.errors import InputError
from eolgul.images.decode import encode_png
from eolgul.serving import problems
from eolgul.serving.endpoints.answers import comparison_fields, counted, face_fields, threshold_fields, used_face
from eolgul.serving.endpoints.body import ExpectedBody
from eolgul.serving.endpoints.call import (
    ONE_IMAGE,
    Call,
    OneFaceQuery,
    WhichQuery,
    admitted_call,
    json_response,
    openapi_answers,
)
from eolgul.serving.inference.model import Analysis
from eolgul.serving.problems import RejectionError
from eolgul.serving.settings import Settings

TWO_IMAGES = ExpectedBody({"image1": 1, "image2": 1})
_MANY = Settings.model_fields["max_comparisons"].default
router = APIRouter(prefix="/v1", tags=["faces"])


def _image_and_others(most: int) -> ExpectedBody:
    return ExpectedBody({"image": 1, "others": most})


def _images(most: int) -> ExpectedBody:
    return ExpectedBody({"images": most})


def _problem(error: RejectionError) -> Problem:
    return Problem(**problems.document(error.code, str(error), field=error.field))


@router.post(
    "/verify",
    responses=openapi_answers(VerifyAnswer, "no_face", "several_faces", "too_many_faces"),
    openapi_extra=TWO_IMAGES.openapi(),
)
async def verify(request: Request, which: WhichQuery = None) -> Response:
    """Compare two photos: same person, different people, or undecided, and how often strangers score as high."""
    async with admitted_call(request, "verify") as call:
        body = await call.read_body(TWO_IMAGES)
        images = [(name, body.image(name)) for name in TWO_IMAGES.images]
        if which == "all":
            return json_response(_best_pair(call, *await call.analyse_faces(images)))
        (left, left_cached), (right, right_cached) = await call.analyse(images, which)
        verdict = counted(call.model.verify(left, right))
        return json_response(
            VerifyAnswer(
                **comparison_fields(verdict),
                **threshold_fields(call.model),
                **call.answer_fields(),
                faces=(used_face(left), used_face(right)),
                cached=(left_cached, right_cached),
            )
        )


def _best_pair(call: Call, left: Sequence[Analysis], right: Sequence[Analysis]) -> VerifyAnswer:
    """The answer for every face of two photos."""
    pairs = [(call.model.verify(one, two), i, j) for i, one in enumerate(left) for j, two in enumerate(right)]
    pairs.sort(key=lambda pair: (bool(pair[0].reasons), -pair[0].similarity))
    best, i, j = pairs[0]
    return VerifyAnswer(
        **comparison_fields(counted(best)),
        **threshold_fields(call.model),
        **call.answer_fields(),
        faces=(used_face(left[i]), used_face(right[j])),
        cached=(False, False),
        faces1=tuple(map(used_face, left)),
        faces2=tuple(map(used_face, right)),
        pairs=tuple(FacePair(**comparison_fields(verdict), face1=i, face2=j) for verdict, i, j in pairs),
    )


@router.post(
    "/verify/many",
    responses=openapi_answers(VerifyManyAnswer, "no_face", "several_faces"),
    openapi_extra=_image_and_others(_MANY).openapi(),
)
async def verify_many(request: Request, which: OneFaceQuery = None) -> Response:
    """Compare one photo with several others. An unusable photo among `others` gets a problem as its result."""
    async with admitted_call(request, "verify") as call:
        body = await call.read_body(_image_and_others(call.state.settings.max_comparisons))
        images = [("image", body.image("image")), *(("others", data) for data in body.images["others"])]
        first, *others = await call.analyse_each(images, which)
        if isinstance(first, RejectionError):
            raise first
        results = []
        for index, other in enumerate(others):
            if isinstance(other, RejectionError):
                results.append(OneOfMany(index=index, problem=_problem(other)))
                continue
            verdict = counted(call.model.verify(first[0], other[0], ("image", "others")))
            comparison = Comparison(**comparison_fields(verdict))
            results.append(OneOfMany(index=index, comparison=comparison, face=used_face(other[0])))
        return json_response(
            VerifyManyAnswer(
                **threshold_fields(call.model), **call.answer_fields(), face=used_face(first[0]), results=tuple(results)
            )
        )


@router.post(
    "/embed",
    responses=openapi_answers(EmbedAnswer, "no_face", "several_faces", "too_many_faces"),
    openapi_extra=ONE_IMAGE.openapi(),
)
async def embed(request: Request, which: WhichQuery = None) -> Response:
    """Embed the face of a photo (unit length). Compare only embeddings of the same model."""
    async with admitted_call(request, "embed") as call:
        body = await call.read_body(ONE_IMAGE)
        image, cached = ("image", body.image("image")), False
        every: tuple[Analysis, ...] = ()
        if which == "all":
            [every] = await call.analyse_faces([image])
            analysis = every[0]
        else:
            [(analysis, cached)] = await call.analyse([image], which)
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
                faces=tuple(EmbeddedFace(embedding=one.embedding.tolist(), face=used_face(one)) for one in every),
            )
        )


@router.post("/embed/many", responses=openapi_answers(EmbedManyAnswer), openapi_extra=_images(_MANY).openapi())
async def embed_many(request: Request, which: OneFaceQuery = None) -> Response:
    """Embed the faces of several photos. An unusable photo gets a problem as its result."""
    async with admitted_call(request, "embed") as call:
        body = await call.read_body(_images(call.state.settings.max_comparisons))
        results = []
        for index, one in enumerate(
            await call.analyse_each([("images", data) for data in body.images["images"]], which)
        ):
            if isinstance(one, RejectionError):
                results.append(EmbeddedImage(index=index, problem=_problem(one)))
            else:
                embedding, face = one[0].embedding.tolist(), used_face(one[0])
                results.append(EmbeddedImage(index=index, embedding=embedding, face=face, cached=one[1]))
        return json_response(EmbedManyAnswer(**call.answer_fields(), results=tuple(results)))


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
