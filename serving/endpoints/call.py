"""One request being answered: authenticate, admit, read, analyse. What every endpoint under /v1 shares."""

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
from eolgul.serving.endpoints.body import Body, Room, Share, Wanted, read_body
from eolgul.serving.gallery.store import Gallery
from eolgul.serving.inference.cache import CacheKey, EmbeddingCache
from eolgul.serving.inference.engine import Engine
from eolgul.serving.inference.loader import Loader
from eolgul.serving.inference.model import Analysis, ServedModel
from eolgul.serving.problems import RejectionError
from eolgul.serving.settings import Settings

T = TypeVar("T")
ONE = Wanted({"image": 1})


@dataclass(slots=True)
class State:
    """What the endpoints share; made by `eolgul.serving.service` and put into the application's state."""

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
        """What the request brings, under the service's caps (`eolgul.serving.endpoints.body.read_body`)."""
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
        request.state.allowance = await state.limit.check(
            caller
        )  # eolgul.serving.transport.middleware writes its headers
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
