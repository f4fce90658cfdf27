"""Limit the head of a request (request line and headers) in size and in time, which the HTTP parser does not do.

The application sees a request only when its head is complete: without limits, 200 MB of headers keep a worker busy for a
minute, and a head that never ends keeps its connection open for ever. `eolgul.serving.endpoints.body` limits bodies.
"""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from eolgul.serving import problems

MAX_HEAD = 64 * 1024  # bytes; the default limit is 32 KiB in nginx, 64 KiB in h11
HEAD_S = 20.0  # seconds from the start of a connection, or the first byte of a later request, to the end of the head


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol, which also answers 431 to a head that is too long and closes a connection whose head is too slow."""

    _size = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection begins: its first head has `HEAD_S` seconds."""
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass bytes to the parser, and count them while a head is incomplete."""
        before = self._timer
        super().data_received(data)
        if before is None or self._timer is not before or self.transport.is_closing():
            return  # the head is complete, or the next one began after a body; its first bytes are not counted
        self._size += len(data)
        if self._size > MAX_HEAD:
            self._end_head()
            self._refuse(f"the request's line and headers are larger than {MAX_HEAD} bytes")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._begin_head()

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._end_head()
        super().on_headers_complete()

    def _begin_head(self) -> None:
        if self._timer is None:
            self._size, self._timer = 0, self.loop.call_later(HEAD_S, self._time_out)

    def _end_head(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        self._timer = None
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
