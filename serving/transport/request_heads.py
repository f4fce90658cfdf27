"""A bound on requests' heads (request line and headers), in size and in time, which the HTTP parser has none for.

Nothing of a request reaches the application before its head is whole: 200 MB of header kept a worker busy for a minute,
and a head that never ends kept its connection for ever. Bodies have their limits in `eolgul.serving.endpoints`.
"""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from eolgul.serving import problems

MAX_HEAD = 64 * 1024  # bytes; nginx admits 32 KiB by default, h11 64
HEAD_S = 20.0  # seconds from a connection's start, or a later request's first byte, to the end of the head


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol, which answers 431 to a long head, and closes a connection whose head takes too long."""

    _size = 0
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self._waiting
        super().data_received(data)
        if before is None or self._waiting is not before or self.transport.is_closing():
            return  # the head is whole, or another one began behind a body, of which this does not count
        self._size += len(data)
        if self._size > MAX_HEAD:
            self._head_came()
            self._refuse(f"the request's line and headers are larger than {MAX_HEAD} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._head_came()
        super().on_headers_complete()

    def _await_head(self) -> None:
        if self._waiting is None:
            self._size, self._waiting = 0, self.loop.call_later(HEAD_S, self._too_late)

    def _head_came(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_late(self) -> None:
        self._waiting = None
        if not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, detail: str) -> None:
        body = json.dumps(problems.document("too_large", detail, status=431)).encode()
        head = (
            "HTTP/1.1 431 Request Header Fields Too Large\r\n"
            f"content-type: {problems.MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def install() -> None:
    """Call it before BentoML starts uvicorn, which takes no protocol from its callers there."""
    from uvicorn.protocols.http import auto

    auto.AutoHTTPProtocol = BoundedHeads
