"""The endpoints under /v1, each thin: admit, read, analyse, answer. A FastAPI application, mounted by `serving.service`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from fastapi import APIRouter, FastAPI, Query, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from numpy.typing import NDArray
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, Route

from eolgul.errors import InputError
from eolgul.images import encode_png
from serving import metrics, problems
from serving.audit import Audit
from serving.cache import CacheKey, EmbeddingCache
from serving.engine import Engine
from serving.gallery import Gallery
from serving.images import Body, Room, Share, Wanted, read_body
from serving.keys import ApiKeys, Caller
from serving.limits import RateLimit, RateLimitedError
from serving.loader import Loader
from serving.model import Analysis, ServedModel, Verdict
from serving.problems import RejectionError
from serving.schemas import (
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
from serving.settings import Settings

T = TypeVar("T")
TWO = Wanted({"image1": 1, "image2": 1})
ONE = Wanted({"image": 1})
router = APIRouter(prefix="/v1")


@dataclass(slots=True)
class State:
    """What the endpoints share; made by `serving.service` and put into the application's state."""

    settings: Settings
    loader: Loader
    engine: Engine
    cache: EmbeddingCache
    keys: ApiKeys
    limit: RateLimit
    gallery: Gallery | None
    audit: Audit
    room: Room = field(default_factory=Room)


@dataclass(slots=True)
class Call:
    """One request being answered: the model it is answered with from begin to end, and where its time goes."""

    request: Request
    state: State
    model: ServedModel
    caller: Caller
    share: Share
    start: float
    timings: dict[str, float] = field(default_factory=dict)

    async def read(self, wanted: Wanted) -> Body:
        """What the request brings, under the service's caps (`serving.images.read_body`)."""
        return await read_body(self.request, wanted, self.share, max_image_bytes=self.state.settings.max_image_bytes)

    async def analyse(self, pictures: Sequence[tuple[str, bytes]]) -> list[tuple[Analysis, bool] | RejectionError]:
        """Each (field, encoded image)'s analysis, from the cache (True) or the model, or what is wrong with it."""
        jobs = asyncio.gather(*(self._one(data) for _, data in pictures), return_exceptions=True)
        ended = await self.while_present(jobs)
        answers: list[tuple[Analysis, bool] | RejectionError] = []
        for (name, _), result in zip(pictures, ended, strict=True):
            if isinstance(result, InputError):
                answers.append(RejectionError(str(result), result.code, name))
            elif isinstance(result, BaseException):
                raise result
            else:
                answers.append(result)
        return answers

    async def analyse_uncached(self, pictures: Sequence[tuple[str, bytes]]) -> list[Analysis]:
        """What enrolment uses: nothing of the images is left in the cache. Raises what is wrong with the first bad one."""
        jobs = (self.state.engine.analyse(self.model, data) for _, data in pictures)
        ended = await self.while_present(asyncio.gather(*jobs, return_exceptions=True))
        found = []
        for (name, _), result in zip(pictures, ended, strict=True):
            if isinstance(result, InputError):
                raise RejectionError(str(result), result.code, name)
            if isinstance(result, BaseException):
                raise result
            self.spent(result[1])
            found.append(result[0])
        return found

    async def while_present(self, work: Awaitable[T]) -> T:
        """What the networks' `work` gives; it is cancelled when the client goes away, so that what has not had its turn
        never gets it: clients that lose patience and ask again would else have all their questions answered, in vain.
        To be used once the body is read. ClientDisconnect."""
        task = asyncio.ensure_future(work)
        gone = asyncio.create_task(self._gone())
        try:
            await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientDisconnect
            return task.result()
        finally:
            gone.cancel()
            task.cancel()

    async def _gone(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass

    def key(self, data: bytes) -> CacheKey:
        return CacheKey.of(self.caller.tenant, self.model.digest, self.model.contract_digest, data)

    async def _one(self, data: bytes) -> tuple[Analysis, bool]:
        key = self.key(data)
        inside = 0.0

        async def compute() -> Analysis:
            nonlocal inside
            begin = perf_counter()
            analysis, timings = await self.state.engine.analyse(self.model, data)
            inside = perf_counter() - begin
            self.spent(timings)
            return analysis

        begin = perf_counter()
        analysis, cached = await self.state.cache.get_or_compute(key, compute)
        seconds = perf_counter() - begin - inside
        if cached or inside:
            metrics.STAGE_SECONDS.labels("cache").observe(seconds)
        self.spent({"cache" if cached or inside else "shared": seconds * 1000})  # another request worked for this one
        return analysis, cached

    async def all_of(self, pictures: Sequence[tuple[str, bytes]]) -> list[tuple[Analysis, bool]]:
        """`analyse` where every image is needed: raises what is wrong with the first bad one."""
        answers = []
        for answer in await self.analyse(pictures):
            if isinstance(answer, RejectionError):
                raise answer
            answers.append(answer)
        return answers

    def spent(self, timings: dict[str, float]) -> None:
        for name, milliseconds in timings.items():
            self.timings[name] = self.timings.get(name, 0.0) + milliseconds

    def facts(self) -> dict[str, Any]:
        """What every answer says: model, synthetic, timings_ms."""
        timings = {**self.timings, "total": (perf_counter() - self.start) * 1000}
        rounded = {name: round(milliseconds, 3) for name, milliseconds in timings.items()}
        return {"model": self.model.digest, "synthetic": self.model.synthetic, "timings_ms": rounded}


@asynccontextmanager
async def call(request: Request, *scopes: str) -> AsyncIterator[Call]:
    """Admit a request of a caller with `scopes`, bound its time, and answer with the model that is served when it comes.

    RejectionError: `unauthorized`, `forbidden`, `rate_limited`, `busy`, `model_not_ready`, `timeout`, `client_closed`.
    """
    start = perf_counter()
    state: State = request.app.state.eolgul
    caller = state.keys.authenticate(request.headers.get("authorization"))
    caller.require(*scopes)
    try:
        request.state.allowance = await state.limit.check(caller)  # serving.middleware writes its headers
    except RateLimitedError as error:
        request.state.allowance = error.allowance
        raise
    with state.engine.admitted(), state.room.share() as share:
        try:
            async with asyncio.timeout(state.settings.deadline_s):
                yield Call(request, state, state.loader.model, caller, share, start)
        except TimeoutError as error:
            raise RejectionError(f"no answer within {state.settings.deadline_s:g} s", "timeout") from error
        except ClientDisconnect as error:
            raise RejectionError("the client went away", "client_closed") from error


_OF_EVERY_CALL = ("bad_request", "unauthorized", "forbidden", "rate_limited", "internal", "busy", "timeout")
_OF_IMAGES = ("too_large", "unsupported_format")


def refusals(*codes: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI answers: a problem for the status of each code."""
    shown = {"schema": {"$ref": "#/components/schemas/Problem"}}
    problem = {"content": {problems.MEDIA_TYPE: shown}, "description": "what was wrong; see `code`"}
    return dict.fromkeys(sorted({problems.PROBLEMS[code][0] for code in codes}), problem)


def answers(shape: type[BaseModel], *codes: str, images: bool = True) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI answers of an endpoint: its shape, and problems by status; `images`: whether it takes any."""
    described: dict[int | str, dict[str, Any]] = {200: {"model": shape}}
    # 422 in any case, since FastAPI would document an error of its own there.
    return described | refusals(*_OF_EVERY_CALL, "not_an_image", *(_OF_IMAGES if images else ()), *codes)


def answer(shape: BaseModel) -> Response:
    return Response(shape.model_dump_json(), media_type="application/json")


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


def refused(request: Request, error: Exception) -> Response:
    """The problem document for an InputError that an endpoint raised."""
    assert isinstance(error, InputError)
    metrics.REJECTIONS.labels(problems.document(error.code, "")["code"]).inc()
    return problems.of(error)


def misunderstood(request: Request, error: Exception) -> Response:
    """The problem document for a query or path that FastAPI does not accept, which it says before an endpoint has asked
    for the key: who has none is told that and nothing else."""
    assert isinstance(error, RequestValidationError)
    try:
        request.app.state.eolgul.keys.authenticate(request.headers.get("authorization"))
    except RejectionError as refusal:
        return refused(request, refusal)
    first = error.errors()[0]
    metrics.REJECTIONS.labels("bad_request").inc()
    return problems.response("bad_request", f"{first['loc'][-1]}: {first['msg']}", field=str(first["loc"][-1]))


def other_method(request: Request, error: Exception) -> Response:
    """A 405 that names every method of its address (RFC 9110), where the framework names those of the first route that
    fits; `serving.middleware` makes it a problem document."""
    from serving import people

    routes = [*request.app.routes, *router.routes, *people.router.routes]
    fitting = [one for one in routes if isinstance(one, Route) and one.matches(request.scope)[0] is not Match.NONE]
    methods = {method for one in fitting for method in one.methods or ()} or {"GET", "HEAD"}  # of the pages' files
    return Response(status_code=405, headers={"Allow": ", ".join(sorted(methods))})


def application() -> FastAPI:
    """The API; `state.eolgul` must hold a State before the first request."""
    from serving import people  # it uses what is above

    app = FastAPI(
        title="eolgul",
        version="1",
        description="Face verification: are two photos of one person? Errors are RFC 9457 problem documents with a "
        "stable `code`. Every answer names the model that gave it.",
        dependencies=[Security(HTTPBearer(auto_error=False, description="an API key, eolgul_…"))],
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(router)
    app.include_router(people.router)
    app.add_exception_handler(InputError, refused)
    app.add_exception_handler(RequestValidationError, misunderstood)
    app.add_exception_handler(405, other_method)
    return app
