"""One call of the API: authenticate, admit, read the body, analyse the images. All endpoints under /v1 share this."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Query, Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from eolgul.errors import InputError
from eolgul.serving import metrics, problems
from eolgul.serving.access.audit import Audit
from eolgul.serving.access.keys import ApiKeys, Caller
from eolgul.serving.access.limits import RateLimit, RateLimitedError
from eolgul.serving.access.stored_keys import StoredKeys
from eolgul.serving.endpoints.body import Body, BodyMemory, ExpectedBody, MemoryShare, read_body
from eolgul.serving.gallery.store import Gallery
from eolgul.serving.inference.cache import CacheKey, EmbeddingCache
from eolgul.serving.inference.engine import Engine
from eolgul.serving.inference.loader import Loader
from eolgul.serving.inference.model import Analysis, ServedModel
from eolgul.serving.problems import RejectionError
from eolgul.serving.settings import Settings

T = TypeVar("T")
ONE_IMAGE = ExpectedBody({"image": 1})
OneFace = Literal["largest", "single"]
_WHICH = (
    "which face of a photo counts: the `largest`; `single`, and a photo with several is refused (`several_faces`); without it, as the "
    "model's own policy says (`contract.detector.which` of the model)"
)
_MOST_FACES = Settings.model_fields["max_faces"].default
OneFaceQuery = Annotated[OneFace | None, Query(description=_WHICH)]
WhichQuery = Annotated[
    Literal["largest", "single", "all"] | None,
    Query(
        description=f"{_WHICH}; `all` takes every face, up to {_MOST_FACES} (`too_many_faces`), and never uses the cache"
    ),
]


@dataclass(slots=True)
class State:
    """The objects that all endpoints share; `eolgul.serving.service` creates it and stores it in `app.state.eolgul`."""

    settings: Settings
    loader: Loader
    engine: Engine
    cache: EmbeddingCache
    keys: ApiKeys
    rate_limit: RateLimit
    gallery: Gallery | None
    audit: Audit
    stored_keys: StoredKeys | None = None
    body_memory: BodyMemory = field(default_factory=BodyMemory)


@dataclass(slots=True)
class Call:
    """One admitted request: its caller, the model that answers it from start to end, and the time spent per stage."""

    request: Request
    state: State
    model: ServedModel
    caller: Caller
    memory: MemoryShare
    start: float
    timings: dict[str, float] = field(default_factory=dict)

    async def read_body(self, expected: ExpectedBody) -> Body:
        """Read the request's body, limited as in `eolgul.serving.endpoints.body.read_body`."""
        limit = self.state.settings.max_image_bytes
        return await read_body(self.request, expected, self.memory, max_image_bytes=limit)

    async def analyse_each(
        self, images: Sequence[tuple[str, bytes]], which: OneFace | None = None
    ) -> list[tuple[Analysis, bool] | RejectionError]:
        """Analyse images, given as (field, encoded image).

        Args:
            images: Field and encoded image.
            which: Which face of several counts; None for the model's policy.

        Returns:
            For each image its analysis and whether that came from the cache, or the error that prevents it.
        """
        jobs = asyncio.gather(*(self._analyse_one(data, which) for _, data in images), return_exceptions=True)
        outcomes = await self.run_while_connected(jobs)
        results: list[tuple[Analysis, bool] | RejectionError] = []
        for (name, _), outcome in zip(images, outcomes, strict=True):
            if isinstance(outcome, InputError):
                results.append(RejectionError(str(outcome), outcome.code, name))
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                results.append(outcome)
        return results

    async def analyse(
        self, images: Sequence[tuple[str, bytes]], which: OneFace | None = None
    ) -> list[tuple[Analysis, bool]]:
        """As `analyse_each`, where every image is needed: raises the error of the first image that has one."""
        results = []
        for result in await self.analyse_each(images, which):
            if isinstance(result, RejectionError):
                raise result
            results.append(result)
        return results

    async def analyse_uncached(
        self, images: Sequence[tuple[str, bytes]], which: OneFace | None = None
    ) -> list[Analysis]:
        """As `analyse`, without reading or filling the cache: enrolled images must leave nothing in it."""
        return await self._uncached(images, lambda data: self._analyse_here(data, which))

    async def analyse_faces(self, images: Sequence[tuple[str, bytes]]) -> list[tuple[Analysis, ...]]:
        """Every face of images, given as (field, encoded image), the largest first; never from the cache.

        Raises:
            RejectionError: Of the first image that has none, too many, or cannot be read.
        """
        return await self._uncached(images, self._faces)

    async def _uncached(self, images: Sequence[tuple[str, bytes]], work: Callable[[bytes], Awaitable[T]]) -> list[T]:
        jobs = (work(data) for _, data in images)
        outcomes = await self.run_while_connected(asyncio.gather(*jobs, return_exceptions=True))
        results: list[T] = []
        for (name, _), outcome in zip(images, outcomes, strict=True):
            if isinstance(outcome, InputError):
                raise RejectionError(str(outcome), outcome.code, name)
            if isinstance(outcome, BaseException):
                raise outcome
            results.append(outcome)
        return results

    async def _analyse_one(self, data: bytes, which: OneFace | None) -> tuple[Analysis, bool]:
        """The analysis of the face that `which` asks for, and whether it came from the cache."""
        if self._is_the_models(which):
            analysis, cached = await self._analyse_cached(data)
            return _checked(analysis, which), cached
        return (await self._faces(data))[0], False

    async def _analyse_here(self, data: bytes, which: OneFace | None) -> Analysis:
        if self._is_the_models(which):
            analysis, timings = await self.state.engine.analyse(self.model, data)
            self.add_timings(timings)
            return _checked(analysis, which)
        return (await self._faces(data))[0]

    async def _faces(self, data: bytes) -> tuple[Analysis, ...]:
        faces, timings = await self.state.engine.analyse_faces(self.model, data)
        self.add_timings(timings)
        return faces

    def _is_the_models(self, which: OneFace | None) -> bool:
        """Whether the model's policy chooses the face that `which` asks for; `annotated` is the largest here."""
        return which != "largest" or self.model.policy in ("largest", "annotated")

    async def run_while_connected(self, work: Awaitable[T]) -> T:
        """Await `work`, and cancel it if the client disconnects.

        Images that no thread has taken yet are then never analysed. Otherwise clients that time out and retry would
        have each of their attempts answered, in vain. Use it only after the body is read.

        Raises:
            ClientDisconnect: The client disconnected first.
        """
        task = asyncio.ensure_future(work)
        disconnect = asyncio.create_task(self._wait_disconnect())
        try:
            await asyncio.wait([task, disconnect], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientDisconnect
            return task.result()
        finally:
            disconnect.cancel()
            task.cancel()

    async def _wait_disconnect(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass

    def cache_key(self, data: bytes) -> CacheKey:
        """The key of an encoded image in the embedding cache, for this caller and model."""
        return CacheKey.from_image(self.caller.tenant, self.model.digest, self.model.contract_digest, data)

    async def _analyse_cached(self, data: bytes) -> tuple[Analysis, bool]:
        computing_s = 0.0

        async def compute() -> Analysis:
            nonlocal computing_s
            start = perf_counter()
            analysis, timings = await self.state.engine.analyse(self.model, data)
            computing_s = perf_counter() - start
            self.add_timings(timings)
            return analysis

        start = perf_counter()
        analysis, cached = await self.state.cache.get_or_compute(self.cache_key(data), compute)
        if cached:
            analysis = self.model.judge_quality(analysis)
        seconds = perf_counter() - start - computing_s
        shared = not cached and not computing_s  # another request computed it for this one
        if not shared:
            metrics.STAGE_SECONDS.labels("cache").observe(seconds)
        self.add_timings({"shared" if shared else "cache": seconds * 1000})
        return analysis, cached

    def add_timings(self, timings: dict[str, float]) -> None:
        """Add milliseconds per stage to those of the call."""
        for name, milliseconds in timings.items():
            self.timings[name] = self.timings.get(name, 0.0) + milliseconds

    def answer_fields(self) -> dict[str, Any]:
        """The fields of a `ModelAnswer`: model, synthetic, timings_ms."""
        timings = {**self.timings, "total": (perf_counter() - self.start) * 1000}
        rounded = {name: round(milliseconds, 3) for name, milliseconds in timings.items()}
        return {"model": self.model.digest, "synthetic": self.model.synthetic, "timings_ms": rounded}


def _checked(analysis: Analysis, which: OneFace | None) -> Analysis:
    """The analysis. InputError `several_faces` if there is more than one face where only one may be."""
    if which == "single" and analysis.faces > 1:
        raise InputError(f"{analysis.faces} faces found, expected one", "several_faces")
    return analysis


@asynccontextmanager
async def admitted_call(request: Request, *scopes: str) -> AsyncIterator[Call]:
    """Admit a request whose API key has all `scopes`, with the model that is served at this moment, and limit its time.

    Raises:
        RejectionError: With the code `unauthorized`, `forbidden`, `rate_limited`, `busy`, `model_not_ready`, `timeout`
            or `client_closed`.
    """
    start = perf_counter()
    state: State = request.app.state.eolgul
    caller = state.keys.authenticate(request.headers.get("authorization"))
    caller.require(*scopes)
    try:
        # eolgul.serving.transport.middleware writes its headers
        request.state.allowance = await state.rate_limit.check(caller)
    except RateLimitedError as error:
        request.state.allowance = error.allowance
        raise
    with state.engine.admitted(), state.body_memory.share() as memory:
        try:
            async with asyncio.timeout(state.settings.deadline_s):
                yield Call(request, state, state.loader.model, caller, memory, start)
        except TimeoutError as error:
            raise RejectionError(f"no answer within {state.settings.deadline_s:g} s", "timeout") from error
        except ClientDisconnect as error:
            raise RejectionError("the client disconnected", "client_closed") from error


_CODES_OF_EVERY_CALL = ("bad_request", "unauthorized", "forbidden", "rate_limited", "internal", "busy", "timeout")
_CODES_OF_IMAGES = ("too_large", "unsupported_format", "not_an_image", "too_small")


def openapi_problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses that are problem documents: one per HTTP status of `codes`."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({problems.PROBLEMS[code][0] for code in codes}):
        of_status = dict.fromkeys(code for code in codes if problems.PROBLEMS[code][0] == status)
        content = {
            "schema": {"$ref": "#/components/schemas/Problem"},
            "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in of_status},
        }
        found[status] = {"content": {problems.MEDIA_TYPE: content}, "description": "what is wrong; see `code`"}
    return found


def openapi_answers(shape: type[BaseModel], *codes: str, images: bool = True) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses of an endpoint: `shape`, and the problems of `codes` and of every call.

    Args:
        shape: The model of the answer with status 200.
        codes: Problem codes of this endpoint in addition to those that every call has.
        images: Whether the endpoint takes images.
    """
    success: dict[int | str, dict[str, Any]] = {200: {"model": shape}}
    # With 422 in any case: FastAPI would otherwise document its own validation error there.
    return success | openapi_problems(
        *_CODES_OF_EVERY_CALL, "not_an_image", *(_CODES_OF_IMAGES if images else ()), *codes
    )


def json_response(answer: BaseModel) -> Response:
    """The HTTP response that holds an answer as JSON."""
    return Response(answer.model_dump_json(), media_type="application/json")
