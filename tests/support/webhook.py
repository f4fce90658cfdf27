"""A webhook in this process, which keeps what it gets and answers well, late, or not at all."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from support.http_server import http_server


@dataclass
class Webhook:
    """What the server does, and what it got.

    Attributes:
        address: Its address, with a path that is a secret.
        answers: The status of each answer, the last one for all that follow; or `hang`, `drip`, `reset`.
        bodies: The bodies that it got, as bytes.
        headers: Their headers, names in lower case.
    """

    address: str = ""
    answers: list[Any] = field(default_factory=lambda: [204])
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    open: bool = True

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The bodies as JSON."""
        return [json.loads(body) for body in self.bodies]


@contextmanager
def webhook() -> Iterator[Webhook]:
    """Serve on a port of 127.0.0.1."""
    state = Webhook()
    with http_server(type("Handler", (_Handler,), {"state": state})) as address:
        state.address = f"{address}/hooks/hush-hush"
        try:
            yield state
        finally:
            state.open = False


class _Handler(BaseHTTPRequestHandler):
    state: Webhook
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        state = self.state
        state.headers.append({name.lower(): value for name, value in self.headers.items()})
        state.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        answer = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
        if answer == "reset":
            self.close_connection = True
        elif answer == "hang":
            while state.open:
                time.sleep(0.02)
        elif answer == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
            while state.open:
                self.wfile.write(b"x")
                time.sleep(0.02)
        else:
            self.send_response(answer)
            if 300 <= answer < 400:
                self.send_header("Location", f"{state.address}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
