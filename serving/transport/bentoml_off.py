"""Everything that switches BentoML's own behaviour off around the FastAPI application; README.md says why, in one place.

Environment variables for the process that BentoML is started in, options of its service, two replaced classes, and a line of
its log.
"""

from __future__ import annotations

import logging
import os
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from eolgul import TELEMETRY_OFF

logger = logging.getLogger("eolgul.service")
# BentoML answers this path with a description that lacks the API's routes; the middleware answers it instead.
DOCS_PATH = "/docs.json"


def set_environment(environment: MutableMapping[str, str]) -> None:
    """Switch usage reports and tracing off in the environment of the process that will run BentoML.

    BentoML opens a trace for every request even when nothing collects it, which costs a third of the throughput;
    `OTEL_SDK_DISABLED` stays as it is where it is set.
    """
    environment.update(TELEMETRY_OFF)
    environment.setdefault("OTEL_SDK_DISABLED", "true")


def service_options() -> dict[str, Any]:
    """The arguments of `bentoml.service` that switch its timeout, tracing, metrics and access log off."""
    # With OpenTelemetry disabled, BentoML's tracing middleware still costs a fifteenth of each request.
    tracing = {"excluded_urls": [".*"]} if os.environ.get("OTEL_SDK_DISABLED") == "true" else {}
    return {
        "traffic": {"timeout": 600},  # only BentoML's own clients still use it: see `install`
        "tracing": tracing,
        # They are labelled by raw path, so any client could add labels without limit.
        "metrics": {"enabled": False},
        # It holds paths, and a path of the gallery contains a person's id.
        "logging": {"access": {"enabled": False}},
    }


class _NoTimeout:
    """Replaces BentoML's timeout middleware and passes every request on."""

    def __init__(self, app: ASGIApp, timeout: float) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def install() -> None:
    """Replace BentoML's timeout and uvicorn's protocol class. Call this before BentoML builds its application.

    BentoML 1.4 starts a timer per request and cancels none, so an answered request keeps a timer, a future and its
    context (1.2 kB) until the timeout ends: 700 MB at 1,000 requests per second and 600 s. The timeout cannot be switched
    off, and a short one would answer in another format before the deadline that every call of the API has. BentoML also
    starts uvicorn without a choice of the protocol class, so the class itself is replaced by one that bounds heads.
    """
    from uvicorn.protocols.http import auto

    from eolgul.serving.transport.request_heads import BoundedHeads

    auto.AutoHTTPProtocol = BoundedHeads
    # "listening on http://localhost:3000" also where it listens on every address. `launch` says the true one.
    logging.getLogger("bentoml.serve").addFilter(lambda record: "listening on" not in record.msg)
    try:
        from bentoml._internal.server.http import traffic
    except ImportError:
        logger.warning("this version of BentoML has its timeout elsewhere: each request may hold memory until it ends")
        return
    traffic.TimeoutMiddleware = _NoTimeout  # type: ignore[misc, assignment]
