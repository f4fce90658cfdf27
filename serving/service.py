"""The BentoML service around the API. `bentoml serve eolgul.serving.service:FaceVerification`; see `eolgul.serving.launch`."""

# BentoML ships no types for its decorators.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
import gc
import logging
import os
from typing import Any, cast

import bentoml

from eolgul.errors import InputError
from eolgul.serving import metrics
from eolgul.serving.access.audit import Audit
from eolgul.serving.access.keys import ApiKeys
from eolgul.serving.access.limits import RateLimit
from eolgul.serving.app import application
from eolgul.serving.endpoints import pages
from eolgul.serving.endpoints.call import State
from eolgul.serving.gallery.store import Gallery
from eolgul.serving.inference.cache import EmbeddingCache
from eolgul.serving.inference.engine import Engine
from eolgul.serving.inference.loader import Loader
from eolgul.serving.keyring import Keyring
from eolgul.serving.redis_link import RedisLink
from eolgul.serving.settings import Settings
from eolgul.serving.transport import bentoml_timeout, request_heads
from eolgul.serving.transport.drain import Drain
from eolgul.serving.transport.middleware import Edge
from eolgul.workers import end_with_parent

if os.environ.get("EOLGUL_END_WITH_PARENT"):  # set by eolgul.serving.launch.running
    end_with_parent()


def _workers(settings: Settings) -> int:
    """How many processes. InputError, before there are any, where they could not read what the others cached."""
    if settings.workers > 1 and settings.redis_url and settings.encryption_keys_file is None:
        raise InputError("several workers with a cache need EOLGUL_ENCRYPTION_KEYS_FILE: one key for all of them")
    return settings.workers


bentoml_timeout.install()
request_heads.install()
APP = application()
pages.add_to(APP)


@bentoml.asgi_app(APP, path="/")
@bentoml.service(
    name="eolgul",
    workers=_workers(Settings()),
    traffic={"timeout": 600},  # for BentoML's own clients; see eolgul.serving.transport.bentoml_timeout
    # eolgul.serving.launch switches OpenTelemetry off; what is left of it would still cost a fifteenth of each request.
    tracing={"excluded_urls": [".*"]} if os.environ.get("OTEL_SDK_DISABLED") == "true" else {},
    # BentoML's own HTTP metrics label by raw path: anyone could grow them without end. /metrics is in eolgul.serving.endpoints.pages.
    metrics={"enabled": False},
    # Its access log holds paths, and a path of the gallery names a person. eolgul.serving.transport.middleware writes one without.
    logging={"access": {"enabled": False}},
)
class FaceVerification:
    """Are two photos of one person? The endpoints are in `eolgul.serving.endpoints.faces`; this starts and stops what they share."""

    def __init__(self) -> None:
        settings = Settings()
        _log()
        metrics.forget_the_dead()
        end_with_parent()  # a worker must not outlive the BentoML supervisor
        keyring = Keyring.ephemeral()
        if settings.encryption_keys_file:
            keyring = Keyring.read(settings.encryption_keys_file)
        elif settings.gallery_url:
            raise InputError("a gallery needs EOLGUL_ENCRYPTION_KEYS_FILE: it must be readable after a restart")
        link = people = None
        if settings.redis_url:
            link = RedisLink.of(settings, settings.redis_url, "cache", settings.redis_timeout_s)
        if settings.gallery_url:
            people = RedisLink.of(settings, settings.gallery_url, "gallery", settings.gallery_timeout_s)
        self.state = APP.state.eolgul = State(
            settings,
            Loader(settings),
            Engine(concurrency=settings.concurrency, waiting=settings.queue, max_batch=settings.max_batch),
            EmbeddingCache(link, keyring, ttl_s=settings.cache_ttl_s),
            _keys(settings),
            RateLimit(link, settings.requests_per_minute, fallback=metrics.RATE_LIMIT.labels("local").inc),
            None if people is None else Gallery(people, keyring, max_people=settings.gallery_people),
            Audit(settings.audit_log),
        )
        self.state.loader.start()
        APP.state.drain = Drain(settings.drain_s)

    async def __is_ready__(self) -> bool:
        """What /readyz asks: 503 until the model is loaded and warm, and once SIGTERM has come."""
        return self.state.loader.ready and not APP.state.drain.draining

    @bentoml.on_startup
    async def begin(self) -> None:  # async: it needs the running loop
        APP.state.drain.install()
        if self.state.settings.workers > 1:  # else a worker that still loads would refuse what /readyz promised
            await self.state.loader.looked()
        self._settling = asyncio.create_task(_settle(self.state.loader))

    @bentoml.on_shutdown
    async def close(self) -> None:
        self.state.loader.stop()
        self.state.engine.close()
        await self.state.cache.close()
        if self.state.gallery:
            await self.state.gallery.close()


async def _settle(loader: Loader) -> None:
    """Keep what the start has made out of the garbage collector's sight: walking its 200,000 objects stops every request
    for 50 ms and more, twice in 3,000 of them, and finds nothing."""
    await loader.looked()
    gc.collect()
    gc.freeze()


def _log() -> None:
    """Our own lines (requests, model, audit) beside BentoML's, which sets up its own logger and no other."""
    logger = logging.getLogger("eolgul")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(
            logging.Formatter("%(asctime)s [%(levelname)s] %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S%z")
        )
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def _keys(settings: Settings) -> ApiKeys:
    """InputError where no one could call: neither a file of keys nor the wish to have none."""
    if settings.auth == "off":
        return ApiKeys.open_to_all()
    if settings.api_keys_file is None:
        raise InputError("set EOLGUL_API_KEYS_FILE (make one: eolgul key new), or EOLGUL_AUTH=off to let everyone in")
    return ApiKeys.read(settings.api_keys_file)


def _unready() -> str:
    """The sentence of /readyz while it is not ready."""
    if APP.state.drain.draining:
        return "the service is shutting down"
    return str(APP.state.eolgul.loader.failure)


_service = cast(Any, FaceVerification)  # the decorators made it a bentoml.Service
_service.add_asgi_middleware(Edge, unready=_unready, draining=lambda: APP.state.drain.draining)
