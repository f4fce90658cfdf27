"""The BentoML service around the API.

Start it with `bentoml serve eolgul.serving.service:FaceVerification` or, as `eolgul serve` does, with
`eolgul.serving.launch`.
"""

# BentoML ships no types for its decorators.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
import gc
import logging
import os
from typing import Any, cast

import bentoml
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from eolgul.errors import InputError
from eolgul.serving import READING, metrics
from eolgul.serving.access.audit import Audit
from eolgul.serving.access.keys import ApiKeys
from eolgul.serving.access.limits import RateLimit
from eolgul.serving.access.stored_keys import StoredKeys
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
from eolgul.serving.transport import bentoml_off
from eolgul.serving.transport.drain import Drain
from eolgul.serving.transport.middleware import Edge
from eolgul.workers import end_with_parent

if os.environ.get("EOLGUL_END_WITH_PARENT"):  # set by eolgul.serving.launch.running
    end_with_parent()


logger = logging.getLogger("eolgul.service")
_MISSING_S = 1.0  # seconds between two looks for a file that is missing


def _workers(settings: Settings) -> int:
    """The number of processes. InputError, before any is started, if they could not read each other's cache entries."""
    if settings.workers > 1 and settings.redis_url and settings.encryption_keys_file is None:
        raise InputError("several workers with a cache need EOLGUL_ENCRYPTION_KEYS_FILE, so that all use the same key")
    return settings.workers


bentoml_off.install()
APP = application()
pages.add_to(APP)


@bentoml.asgi_app(APP, path="/")
@bentoml.service(
    name="eolgul",
    workers=_workers(Settings()),
    **bentoml_off.service_options(),
)
class FaceVerification:
    """Starts and stops the objects that the endpoints (`eolgul.serving.endpoints`) share."""

    def __init__(self) -> None:
        settings = Settings()
        _configure_logging()
        metrics.drop_exited_workers()
        end_with_parent()  # a worker must not outlive the BentoML supervisor
        keyring = Keyring.ephemeral()
        self.state = APP.state.eolgul = State(
            settings,
            Loader(settings),
            Engine(concurrency=settings.concurrency, waiting=settings.queue, max_batch=settings.max_batch),
            EmbeddingCache(None, keyring, ttl_s=settings.cache_ttl_s),
            ApiKeys.awaited(),
            RateLimit(None, settings.requests_per_minute, fallback=metrics.RATE_LIMIT.labels("local").inc),
            None,
            Audit(settings.audit_log),
        )
        APP.state.missing = ""  # the reason why the key files cannot be used, in one sentence
        try:
            self._take_keys()
        except InputError as error:
            if not settings.wait:
                raise
            self._say_missing(error)
        self.state.loader.start()
        APP.state.drain = Drain(settings.drain_s, _ready)

    def _take_keys(self) -> None:
        """Read the files of keys and passwords and open what needs them. InputError if one of them cannot be used."""
        settings, state = self.state.settings, self.state
        if settings.gallery_url and not settings.encryption_keys_file:
            raise InputError("a gallery needs EOLGUL_ENCRYPTION_KEYS_FILE, so that it can be read after a restart")
        keyring = Keyring.read(settings.encryption_keys_file) if settings.encryption_keys_file else Keyring.ephemeral()
        cache_link = gallery_link = None
        if settings.redis_url:
            cache_link = RedisLink.from_settings(settings, settings.redis_url, "cache", settings.redis_timeout_s)
        if settings.gallery_url:
            gallery_link = RedisLink.from_settings(
                settings, settings.gallery_url, "gallery", settings.gallery_timeout_s
            )
        keys = _api_keys(settings)  # last to be read and last to be set: with them, calls are admitted
        state.cache = EmbeddingCache(cache_link, keyring, ttl_s=settings.cache_ttl_s)
        state.rate_limit = RateLimit(
            cache_link, settings.requests_per_minute, fallback=metrics.RATE_LIMIT.labels("local").inc
        )
        if gallery_link is not None:
            state.gallery = Gallery(
                gallery_link,
                keyring,
                max_people=settings.gallery_people,
                memory_bytes=settings.gallery_memory_mb * 1_000_000,
            )
            if not keys.open:
                state.stored_keys = StoredKeys(gallery_link, keyring)
                keys.stored = None
        state.keys = keys
        APP.state.missing = ""

    def _say_missing(self, error: InputError) -> None:
        if str(error) != APP.state.missing:
            logger.error("no call is admitted yet: %s", error)
        APP.state.missing = str(error)

    async def _prepare(self) -> None:
        """Try again every second while a file of keys is missing, or is not valid; then read the gallery."""
        while APP.state.missing:
            await asyncio.sleep(_MISSING_S)
            try:
                self._take_keys()
            except InputError as error:
                self._say_missing(error)
            else:
                logger.info("the keys are there: calls are admitted")
        if self.state.stored_keys:
            self._following = asyncio.create_task(self.state.stored_keys.follow(self.state.keys))
        if self.state.gallery:
            await self.state.gallery.warm(self.state.keys.tenants)

    async def __is_ready__(self) -> bool:
        """The answer of /readyz: 503 until there are keys, a warm model and the gallery in memory, and again after SIGTERM."""
        return _ready() and not APP.state.drain.draining

    @bentoml.on_startup
    async def begin(self) -> None:
        """Handle SIGTERM, and wait for the first load where several workers start; async, for the running loop."""
        APP.state.drain.install()
        if self.state.gallery:
            self._warming = asyncio.create_task(self.state.gallery.warm(self.state.keys.tenants))
        # Otherwise a worker that still loads would refuse requests after another one answered /readyz.
        if self.state.settings.workers > 1:
            await self.state.loader.wait_first_load()
        self._tasks = [
            asyncio.create_task(_freeze_start(self.state.loader)),
            asyncio.create_task(self._prepare()),
            asyncio.create_task(metrics.note_process_repeatedly()),
        ]

    @bentoml.on_shutdown
    async def close(self) -> None:
        """Stop the threads and close the connections to Redis."""
        self.state.loader.stop()
        self.state.engine.close()
        await self.state.cache.close()
        if self.state.gallery:
            await self.state.gallery.close()


async def _freeze_start(loader: Loader) -> None:
    """Exclude the objects made during the start from garbage collection.

    A collection of these 200,000 objects stops every request for 50 ms and more, twice in 3,000 requests, and frees nothing.
    """
    await loader.wait_first_load()
    gc.collect()
    gc.freeze()


def _configure_logging() -> None:
    """Log the lines of `eolgul` (requests, model, audit); BentoML configures only its own logger."""
    # Every attempt that is repeated, in a store's outage twenty lines in a minute; what failed in the end is one sentence of ours.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    logger = logging.getLogger("eolgul")
    for name, made in logging.root.manager.loggerDict.items():
        if name.startswith("eolgul") and isinstance(made, logging.Logger):
            made.disabled = False  # BentoML's configuration disables every logger that is there already
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(
            logging.Formatter("%(asctime)s [%(levelname)s] %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S%z")
        )
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def _api_keys(settings: Settings) -> ApiKeys:
    """The API keys. InputError if there is no file of keys and `auth` is not off: nobody could call the service."""
    if settings.auth == "off":
        return ApiKeys.open_to_all()
    if settings.api_keys_file is None:
        raise InputError("set EOLGUL_API_KEYS_FILE (make one: eolgul key new), or EOLGUL_AUTH=off to admit everyone")
    return ApiKeys.read(settings.api_keys_file)


def _outermost(app: ASGIApp, **options: Any) -> ASGIApp:
    """`Edge`, within what answers browsers that ask whether a page of another origin may call, if there are such origins."""
    edge = Edge(app, **options)
    origins = Settings().origins()
    if not origins:
        return edge
    return CORSMiddleware(
        edge,
        allow_origins=origins,
        allow_methods=("GET", "POST", "PATCH", "DELETE"),
        allow_headers=("Authorization", "Content-Type"),
        expose_headers=("Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"),
        max_age=600,
    )


def _ready() -> bool:
    """Whether requests can be answered: keys and a model are there, and the gallery is read, or cannot be read now."""
    state = APP.state.eolgul
    return state.loader.ready and not APP.state.missing and (state.gallery is None or state.gallery.warmed)


def _unready() -> str:
    """The reason that /readyz gives while it answers 503."""
    if APP.state.drain.draining:
        return "the service is shutting down"
    state = APP.state.eolgul
    if state.loader.ready and not APP.state.missing and state.gallery:
        return f"{READING}: {state.gallery.progress}"
    return str(APP.state.missing or state.loader.failure)


_service = cast(Any, FaceVerification)  # the decorators made it a bentoml.Service
_service.add_asgi_middleware(_outermost, unready=_unready, draining=lambda: APP.state.drain.draining)
