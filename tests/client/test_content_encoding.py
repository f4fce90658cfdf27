"""A response whose content encoding is wrong becomes an error with a code."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator

import pytest

from eolgul.client import AsyncClient, Client, EolgulError, Retries


@pytest.fixture
def mislabelled() -> Iterator[str]:
    """A server whose answers claim to be compressed, but are not."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if self.path == "/v1/export" else 200)
            for name, value in (("Content-Encoding", "gzip"), ("Content-Length", "4")):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"none")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_answer_that_cannot_be_decoded_is_an_error_with_a_code(mislabelled: str) -> None:
    once = Retries(attempts=1)
    with Client(mislabelled, retries=once) as client:
        for ask in (client.current_model, lambda: list(client.export()), lambda: list(client.people())):
            with pytest.raises(EolgulError) as caught:
                ask()
            assert caught.value.code == "no_answer"
        assert client.ready() is False
    asyncio.run(_the_same(AsyncClient(mislabelled, retries=once)))


async def _the_same(client: AsyncClient) -> None:
    async with client:
        with pytest.raises(EolgulError):
            await client.current_model()
        with pytest.raises(EolgulError):
            [line async for line in client.export()]
        assert await client.ready() is False
