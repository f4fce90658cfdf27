"""A reverse proxy as it stands in front of a service: it takes a prefix off the path, and can refuse as proxies do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

import httpx

from support.http_server import http_server

PREFIX = "/faces"
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-encoding", "content-length", "server", "date"}


@dataclass
class Proxy:
    """The address with the prefix; `refuse` is the status that every request of the API gets as a page of HTML."""

    url: str
    refuse: int | None = None
    outside: list[str] = field(default_factory=list)  # paths without the prefix that were asked for


@contextmanager
def proxied(upstream: str) -> Iterator[Proxy]:
    """Run the proxy in front of the service at `upstream`."""
    client = httpx.Client(base_url=upstream, timeout=30)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if not self.path.startswith(f"{PREFIX}/"):
                proxy.outside.append(self.path)
                self.answer(404, {"content-type": "text/html"}, b"<h1>404 Not Found</h1>nginx")
                return
            path = self.path.removeprefix(PREFIX)
            if proxy.refuse and path.startswith("/v1/") and "models" not in path:
                self.answer(proxy.refuse, {"content-type": "text/html"}, b"<html>nginx</html>")
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in (*_HOP, "host")}
            made = client.request(self.command, path, headers=headers, content=body)
            kept = {name: value for name, value in made.headers.items() if name.lower() not in _HOP}
            self.answer(made.status_code, kept, made.content)

        do_GET = do_POST = do_DELETE = do_HEAD = do_OPTIONS = forward  # noqa: N815 - names of http.server

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with client, http_server(Handler) as address:
        proxy = Proxy(f"{address}{PREFIX}")
        yield proxy
