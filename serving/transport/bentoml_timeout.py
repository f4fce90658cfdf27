"""BentoML's timeout of a request, taken out: it leaves a timer behind for each, whose time ours never needs.

BentoML 1.4 starts a timer for every request and cancels none, so that each answered request still holds a timer, a future
and its context (1.2 kB) until the timeout is over: at 1,000 requests a second and the 600 s that nothing may ever reach,
700 MB. Its timeout cannot be switched off, and a short one would answer in another format before the deadline that every
request of the API has (`eolgul.serving.endpoints.call`).
"""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger("eolgul.service")


class _Through:
    """In the place of BentoML's middleware: passes on."""

    def __init__(self, app: ASGIApp, timeout: float) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def install() -> None:
    """Call it before BentoML builds its application. Another BentoML may lack what is replaced: then its own stays."""
    try:
        from bentoml._internal.server.http import traffic
    except ImportError:
        logger.warning("this BentoML keeps its timeout elsewhere: each request may hold memory until it is over")
        return
    traffic.TimeoutMiddleware = _Through  # type: ignore[misc, assignment]
