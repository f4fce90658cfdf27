"""The BentoML service: endpoints, each thin. `bentoml serve serving.service:FaceVerification`; see `serving.launch`."""

# BentoML ships no types for its decorators.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeVar, cast

import anyio
import bentoml
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from eolgul.errors import InputError
from eolgul.processes import end_with_parent
from serving import metrics, pages, problems
from serving.cache import CacheKey, EmbeddingCache
from serving.images import read_form
from serving.loader import Loader
from serving.middleware import Edge
from serving.model import Analysis, ServedModel
from serving.problems import RejectionError
from serving.schemas import EmbedAnswer, EmbedForm, FaceFound, VerifyAnswer, VerifyForm
from serving.settings import Settings

if os.environ.get("EOLGUL_END_WITH_PARENT"):  # set by serving.launch.running
    end_with_parent()
T = TypeVar("T")
PAGES = pages.application()


@bentoml.asgi_app(PAGES, path="/")
@bentoml.service(
    name="eolgul",
    traffic={"timeout": 60},
    # BentoML's own HTTP metrics label by raw path: anyone could grow them without end. /metrics is in serving.pages.
    metrics={"enabled": False},
)
class FaceVerification:
    """Are two photos of one person? Every answer names the model that gave it and the false match rate at its score.

    Errors are RFC 9457 problem documents (`application/problem+json`) with a stable `code`: no_face, several_faces,
    too_small, not_an_image, unsupported_format, too_large, missing_field, busy, model_not_ready.
    """

    def __init__(self) -> None:
        self.settings = settings = Settings()
        end_with_parent()  # a worker must not outlive the BentoML supervisor
        self.cache = EmbeddingCache(
            settings.redis_url,
            ttl_s=settings.cache_ttl_s,
            timeout_s=settings.redis_timeout_s,
            pause_s=settings.redis_pause_s,
        )
        self._inside = 0  # requests that hold, or wait for, memory and a thread
        self._threads = anyio.CapacityLimiter(settings.concurrency)
        self.loader = PAGES.state.loader = Loader(settings)
        self.loader.start()

    @bentoml.api(route="/v1/verify", input_spec=VerifyForm, output_spec=VerifyAnswer)
    async def verify(self, ctx: bentoml.Context) -> VerifyAnswer | Response:
        """Two photos → same or different person, the similarity, and how often strangers score as high."""
        start = perf_counter()
        try:
            with self._admitted():
                model = self.loader.model
                timings: dict[str, float] = {}
                found = await self._analyse(ctx, model, ("image1", "image2"), timings)
        except InputError as error:
            return _refused(ctx, error)
        except ClientDisconnect:
            return _refused(ctx, RejectionError("the client went away", "client_closed"))
        (left, left_cached), (right, right_cached) = found
        verdict = model.compare(left, right)
        metrics.VERDICTS.labels(verdict.word).inc()
        metrics.SIMILARITY.observe(verdict.similarity)
        return VerifyAnswer(
            verdict="same" if verdict.same else "different",
            similarity=verdict.similarity,
            threshold=verdict.threshold,
            false_match_rate=verdict.false_match_rate,
            false_match_rate_floor=verdict.false_match_rate_floor,
            model=model.digest,
            synthetic=model.synthetic,
            faces=[FaceFound.of(left), FaceFound.of(right)],
            cached=[left_cached, right_cached],
            timings_ms=_rounded(timings, start),
        )

    @bentoml.api(route="/v1/embed", input_spec=EmbedForm, output_spec=EmbedAnswer)
    async def embed(self, ctx: bentoml.Context) -> EmbedAnswer | Response:
        """A photo → the unit-length embedding of its face. Compare embeddings of one model only."""
        start = perf_counter()
        try:
            with self._admitted():
                model = self.loader.model
                timings: dict[str, float] = {}
                [(analysis, cached)] = await self._analyse(ctx, model, ("image",), timings)
        except InputError as error:
            return _refused(ctx, error)
        except ClientDisconnect:
            return _refused(ctx, RejectionError("the client went away", "client_closed"))
        face = FaceFound.of(analysis)
        return EmbedAnswer(
            embedding=analysis.embedding.tolist(),
            model=model.digest,
            box=face.box,
            detection_score=face.detection_score,
            landmarks=face.landmarks,
            cached=cached,
            timings_ms=_rounded(timings, start),
        )

    async def __is_ready__(self) -> bool:
        """What /readyz asks: 503 until the model is loaded and warm."""
        return self.loader.ready

    @bentoml.on_shutdown
    async def close(self) -> None:
        self.loader.stop()
        await self.cache.close()

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Admit a request before its body is read, so that a crowd costs neither memory nor time. RejectionError `busy`."""
        if self._inside >= self.settings.concurrency + self.settings.queue:
            raise RejectionError("too many requests are waiting; try again in a moment", "busy")
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def _analyse(
        self, ctx: bentoml.Context, model: ServedModel, fields: Sequence[str], timings: dict[str, float]
    ) -> list[tuple[Analysis, bool]]:
        """Read the form's images and analyse each, in the cache or by the model. True where it was in the cache."""
        files = await read_form(ctx.request, fields, max_image_bytes=self.settings.max_image_bytes)
        keys = [CacheKey.of(model.digest, model.contract_digest, files[field]) for field in fields]
        with metrics.stage("cache", timings):
            known = await self.cache.get(keys)
        fresh = {key: field for key, field, analysis in zip(keys, fields, known, strict=True) if analysis is None}
        jobs = (self._run(model, field, files[field]) for field in fresh.values())
        ended = await asyncio.gather(*jobs, return_exceptions=True)  # all end, so the first bad image is named always
        made = [_result(one) for one in ended]
        computed = {key: analysis for key, (analysis, _) in zip(fresh, made, strict=True)}
        for _, stages in made:
            for name, milliseconds in stages.items():
                timings[name] = timings.get(name, 0.0) + milliseconds
        with metrics.stage("cache", timings):
            for key, analysis in computed.items():
                await self.cache.put(key, analysis)
        return [
            (computed[key], False) if analysis is None else (analysis, True)
            for key, analysis in zip(keys, known, strict=True)
        ]

    async def _run(self, model: ServedModel, field: str, data: bytes) -> tuple[Analysis, dict[str, float]]:
        """Analyse one image in a worker thread; what is wrong with it names the form field."""
        try:
            return await anyio.to_thread.run_sync(model.analyse, data, limiter=self._threads)
        except InputError as error:
            raise RejectionError(str(error), error.code, field) from error


def _result(ended: T | BaseException) -> T:
    if isinstance(ended, BaseException):
        raise ended
    return ended


def _refused(ctx: bentoml.Context, error: InputError) -> Response:
    response = problems.of(error)
    metrics.REJECTIONS.labels(problems.document(error.code, "")["code"]).inc()
    ctx.response.status_code = response.status_code  # BentoML puts the context's status over the response's
    return response


def _rounded(timings: dict[str, float], start: float) -> dict[str, float]:
    total = (perf_counter() - start) * 1000
    return {name: round(milliseconds, 3) for name, milliseconds in {**timings, "total": total}.items()}


_service = cast(Any, FaceVerification)  # the decorators made it a bentoml.Service
_service.add_asgi_middleware(Edge, unready=lambda: PAGES.state.loader.failure)
