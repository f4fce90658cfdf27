"""One call of the API: authenticate, admit, read the body, analyse the images. All endpoints under /v1 share this."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from eolgul.errors import InputError
from eolgul.serving import metrics, problems
from eolgul.serving.access.audit import Audit
from eolgul.serving.access.keys import ApiKeys, Caller
from eolgul.serving.access.limits import RateLimit, RateLimitedError
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

    async def analyse_each(self, images: Sequence[tuple[str, bytes]]) -> list[tuple[Analysis, bool] | RejectionError]:
        """Analyse images, given as (field, encoded image).

        Returns:
            For each image its analysis and whether that came from the cache, or the error that prevents it.
        """
        jobs = asyncio.gather(*(self._analyse_cached(data) for _, data in images), return_exceptions=True)
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

    async def analyse(self, images: Sequence[tuple[str, bytes]]) -> list[tuple[Analysis, bool]]:
        """As `analyse_each`, where every image is needed: raises the error of the first image that has one."""
        results = []
        for result in await self.analyse_each(images):
            if isinstance(result, RejectionError):
                raise result
            results.append(result)
        return results

    async def analyse_uncached(self, images: Sequence[tuple[str, bytes]]) -> list[Analysis]:
        """As `analyse`, without reading or filling the cache: enrolled images must leave nothing in it."""
        jobs = (self.state.engine.analyse(self.model, data) for _, data in images)
        outcomes = await self.run_while_connected(asyncio.gather(*jobs, return_exceptions=True))
        analyses = []
        for (name, _), outcome in zip(images, outcomes, strict=True):
            if isinstance(outcome, InputError):
                raise RejectionError(str(outcome), outcome.code, name)
            if isinstance(outcome, BaseException):
                raise outcome
            analysis, timings = outcome
            self.add_timings(timings)
            analyses.append(analysis)
        return analyses

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
_CODES_OF_IMAGES = ("too_large", "unsupported_format")


def openapi_problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI responses that are problem documents: one per HTTP status of `codes`."""
    shown = {"schema": {"$ref": "#/components/schemas/Problem"}}
    problem = {"content": {problems.MEDIA_TYPE: shown}, "description": "what is wrong; see `code`"}
    return dict.fromkeys(sorted({problems.PROBLEMS[code][0] for code in codes}), problem)


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
