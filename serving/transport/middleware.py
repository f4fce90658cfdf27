"""The middleware around every request: metrics per known route, one error format, security headers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eolgul.serving import metrics, problems
from eolgul.serving.transport import bentoml_off

logger = logging.getLogger("eolgul.http")
_ROUTES = (
    *(f"/v1/verify{name}" for name in ("", "/many", "/embedding", "/person")),
    *(f"/v1/{name}" for name in ("embed", "embed/many", "detect", "identify", "enroll", "people", "export", "keys")),
    *("/v1/models/current", "/metrics", "/healthz", "/livez", "/readyz", "/docs.json", "/openapi.json"),
)
_QUIET = ("/metrics", "/healthz", "/livez", "/readyz")
_PAGE_POLICY = "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"


def route_of(path: str) -> str:
    """The metric label of a path: a known route, `/ui` for the pages, `other` for everything else, so labels stay few."""
    if path in _ROUTES:
        return path
    if path.startswith("/v1/people/"):
        return "/v1/people/{person}"
    if path.startswith("/v1/keys/"):
        return "/v1/keys/{key_id}"
    return "/ui" if path.startswith("/ui") or path in ("/", "/report") else "other"


class Edge:
    """ASGI middleware that completes every answer.

    It turns any error answer of the framework (404, 405, 503 of /readyz, an unhandled exception) into a problem document,
    counts and times every request, and adds the security headers.

    `unready` returns the reason that /readyz gives while it answers 503. While `draining` is true, answers close their
    connection, so that clients connect to another replica.
    """

    def __init__(self, app: ASGIApp, unready: Callable[[], str], draining: Callable[[], bool]) -> None:
        self._app, self._unready, self._draining = app, unready, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI event; other events than HTTP requests are passed on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] == bentoml_off.DOCS_PATH:
            scope = {**scope, "path": "/openapi.json", "raw_path": b"/openapi.json"}
        scope.setdefault("state", {})  # the application's requests share it, even through copies of the scope
        exchange = _Exchange(scope, receive, send, self._unready, self._draining)
        start = perf_counter()
        try:
            await self._app(scope, exchange.receive, exchange.send)
            await exchange.finish()
        except Exception:
            if exchange.started:
                raise  # part of the answer is sent: the server can only close the connection
            logger.exception("a request to %s failed", route_of(scope["path"]))
            await exchange.problem("internal", "unexpected error; the server's log has the details")
        finally:
            route = route_of(scope["path"])
            metrics.REQUESTS.labels(route, str(exchange.status)).inc()
            seconds = perf_counter() - start
            metrics.REQUEST_SECONDS.labels(route).observe(seconds)
            if route not in _QUIET:
                logger.info("%s %s %d %.1f ms", scope["method"], route, exchange.status, seconds * 1000)


class _Exchange:
    """One request with its answer."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, unready: Callable[[], str], draining: Callable[[], bool]
    ) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._unready, self._draining = unready, draining
        headers = Headers(scope=scope)
        self._received = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        self._error: int | None = None  # the status of an error answer of the framework, to be replaced
        self._allow = ""  # its `Allow` header, which a 405 must have (RFC 9110)
        self.status = 500
        self.started = False

    async def receive(self) -> Message:
        """Pass a message of the client on, noting the end of its body."""
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._received = True
        return message

    async def send(self, message: Message) -> None:
        """Pass a message to the client with the headers added, or hold an error answer of the framework back."""
        if message["type"] == "http.response.start":
            media_type = Headers(raw=message["headers"]).get("content-type", "")
            if message["status"] >= 400 and not media_type.startswith(problems.MEDIA_TYPE):
                self._error = message["status"]
                self._allow = Headers(raw=message["headers"]).get("allow", "")
                return
            self.started, self.status = True, message["status"]
            headers = MutableHeaders(raw=message["headers"])
            headers.setdefault("X-Content-Type-Options", "nosniff")
            headers.setdefault("Referrer-Policy", "no-referrer")
            headers.setdefault("Content-Security-Policy", _PAGE_POLICY)
            headers.setdefault("Cache-Control", "no-store")
            if self._allow and message["status"] == 405:
                headers["Allow"] = self._allow
            if allowance := self._scope.get("state", {}).get("allowance"):
                for name, value in allowance.headers.items():
                    headers[name] = value
            # Closing while the client still sends would reset the connection, and the client would lose the answer.
            if self._received and self._draining():
                headers["Connection"] = "close"
            message = {**message, "headers": headers.raw}
        elif self._error is not None:
            return
        await self._send(message)

    async def finish(self) -> None:
        """Send the problem document that replaces an error answer of the framework, if there was one."""
        if self._error is not None:
            not_ready = self._error == 503 and self._scope["path"] == "/readyz"
            code = "model_not_ready" if not_ready else problems.code_for_status(self._error)
            await self.problem(code, self._unready() if not_ready else problems.PROBLEMS[code][1], self._error)

    async def problem(self, code: str, detail: str, status: int | None = None) -> None:
        """Send a problem document."""
        self._error = None
        metrics.REJECTIONS.labels(code).inc()

        async def nothing() -> Message:
            return {"type": "http.disconnect"}

        await problems.response(code, detail, status=status)(self._scope, nothing, self.send)
