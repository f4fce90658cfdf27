"""Requests' heads are bounded in size and time; bodies, however they arrive, are not mistaken for them."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from support.serving import Service

from eolgul.serving.transport import request_heads


async def _count(scope: Any, receive: Any, send: Any) -> None:
    """Answers how many bytes the body had."""
    total = 0
    while True:
        message = await receive()
        total += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    body = str(total).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]}
    )
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """A server with the protocol, in which a head must come within 0.6 s."""
    with pytest.MonkeyPatch.context() as patch, socket.socket() as listening:
        patch.setattr(request_heads, "HEAD_S", 0.6)
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(_count, http=request_heads.BoundedHeads, lifespan="off", log_level="error")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname()
        server.should_exit = True
        thread.join()


def _rest(connection: socket.socket) -> bytes:
    connection.settimeout(10)
    got = b""
    while piece := connection.recv(65536):
        got += piece
    return got


def test_a_long_head_gets_a_problem_document(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        with pytest.raises(OSError):
            for _ in range(4000):
                connection.sendall(b"a" * 65536)
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * request_heads.MAX_HEAD)
        head, _, body = _rest(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ") and b"application/problem+json" in head
    assert json.loads(body)["code"] == "too_large" and json.loads(body)["status"] == 431


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_does_not_end_is_not_waited_for(address: tuple[str, int], begun: bytes) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(begun)
        started = time.monotonic()
        assert _rest(connection) == b""
        assert 0.3 < time.monotonic() - started < 5


def test_a_second_request_must_end_its_head_too(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n")
        assert _rest(connection).count(b"HTTP/1.1 200") == 1


def test_bodies_are_no_heads(address: tuple[str, int]) -> None:
    """Large ones, slow ones, and several behind each other in one piece."""
    large = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"b" * 200_000
    with socket.create_connection(address) as connection:
        connection.sendall(large * 3)
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nsl")
        time.sleep(1.0)  # longer than a head may take
        connection.sendall(b"ow")
        got = _rest(connection)
    assert got.count(b"200000") == 3 and got.endswith(b"4") and b"431" not in got


def test_the_service_has_the_bound(service: Service) -> None:
    url = service.client.base_url
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"a" * request_heads.MAX_HEAD)
        assert _rest(connection).startswith(b"HTTP/1.1 431 ")
    assert service.client.get("/livez").status_code == 200
