"""The endpoints about photos: verify, verify/many, embed and detect."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter, Query, Request
from numpy.typing import NDArray
from starlette.responses import Response

from eolgul.errors import InputError
from eolgul.images.decode import encode_png
from eolgul.serving import metrics, problems
from eolgul.serving.endpoints.body import Wanted
from eolgul.serving.endpoints.call import ONE, answer, answers, call
from eolgul.serving.endpoints.schemas import (
    Comparison,
    DetectAnswer,
    DetectedFace,
    EmbedAnswer,
    FaceFound,
    FoundFace,
    OneOfMany,
    Problem,
    Threshold,
    VerifyAnswer,
    VerifyManyAnswer,
    request_body,
)
from eolgul.serving.inference.model import Verdict
from eolgul.serving.problems import RejectionError
from eolgul.serving.settings import Settings

TWO = Wanted({"image1": 1, "image2": 1})
router = APIRouter(prefix="/v1")


def count(verdict: Verdict) -> Verdict:
    metrics.VERDICTS.labels(verdict.word).inc()
    metrics.SIMILARITY.observe(verdict.similarity)
    return verdict


@router.post("/verify", responses=answers(VerifyAnswer), openapi_extra=request_body(TWO))
async def verify(request: Request) -> Response:
    """Two photos → same person, different people, or undecided; and how often strangers score as high."""
    async with call(request, "verify") as asked:
        body = await asked.read(TWO)
        found = await asked.all_of([(name, body.one(name)) for name in TWO.images])
        (left, left_cached), (right, right_cached) = found
        verdict = count(asked.model.compare(left.embedding, right.embedding))
        return answer(
            VerifyAnswer(
                **Comparison.facts(verdict),
                **Threshold.facts_of(asked.model),
                **asked.facts(),
                faces=[FaceFound.of(left), FaceFound.of(right)],
                cached=[left_cached, right_cached],
            )
        )


@router.post(
    "/verify/many",
    responses=answers(VerifyManyAnswer),
    openapi_extra=request_body(Wanted({"image": 1, "others": Settings.model_fields["max_comparisons"].default})),
)
async def verify_many(request: Request) -> Response:
    """One photo against many. A bad photo among `others` has its own problem in its place; the rest are compared."""
    async with call(request, "verify") as asked:
        settings = asked.state.settings
        wanted = Wanted({"image": 1, "others": settings.max_comparisons})
        body = await asked.read(wanted)
        pictures = [("image", body.one("image")), *(("others", data) for data in body.images["others"])]
        first, *others = await asked.analyse(pictures)
        if isinstance(first, RejectionError):
            raise first
        results = []
        for index, other in enumerate(others):
            if isinstance(other, RejectionError):
                problem = Problem(**problems.document(other.code, str(other), field=other.field))
                results.append(OneOfMany(index=index, problem=problem))
                continue
            verdict = count(asked.model.compare(first[0].embedding, other[0].embedding))
            results.append(
                OneOfMany(index=index, comparison=Comparison(**Comparison.facts(verdict)), face=FaceFound.of(other[0]))
            )
        return answer(
            VerifyManyAnswer(
                **Threshold.facts_of(asked.model), **asked.facts(), face=FaceFound.of(first[0]), results=results
            )
        )


@router.post("/embed", responses=answers(EmbedAnswer), openapi_extra=request_body(ONE))
async def embed(request: Request) -> Response:
    """A photo → the unit-length embedding of its face. Compare embeddings of one model only."""
    async with call(request, "embed") as asked:
        body = await asked.read(ONE)
        [(analysis, cached)] = await asked.all_of([("image", body.one("image"))])
        face = FaceFound.of(analysis)
        return answer(
            EmbedAnswer(
                **asked.facts(),
                embedding=analysis.embedding.tolist(),
                face=face,
                box=face.box,
                detection_score=face.detection_score,
                landmarks=face.landmarks,
                cached=cached,
            )
        )


@router.post("/detect", responses=answers(DetectAnswer), openapi_extra=request_body(ONE))
async def detect(
    request: Request, crops: bool = Query(False, description="give each face's aligned crop too")
) -> Response:
    """A photo → every face in it, with quality; `chosen` is the one that verify would use."""
    async with call(request, "detect") as asked:
        body = await asked.read(ONE)
        try:
            found, timings = await asked.while_present(asked.state.engine.detect(asked.model, body.one("image")))
        except InputError as error:
            raise RejectionError(str(error), error.code, "image") from error
        asked.spent(timings)
        shown = await asyncio.to_thread(_as_text, found.aligned) if crops else [None] * len(found.faces)
        faces = [
            FoundFace(**DetectedFace.facts(face), chosen=row == found.chosen, crop=shown[row])
            for row, face in enumerate(found.faces)
        ]
        return answer(DetectAnswer(**asked.facts(), faces=faces, size=(found.width, found.height)))


def _as_text(pictures: Sequence[NDArray[np.uint8]]) -> list[str | None]:
    return [base64.b64encode(encode_png(picture)).decode() for picture in pictures]
