"""SIGTERM under load: every request that was accepted is answered, and whoever comes later is refused."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send
from support.serving import People, free_port

from eolgul.errors import InputError
from eolgul.model.package import ModelPackage
from eolgul.serving import launch
from eolgul.serving.transport.middleware import Edge

CLIENTS = 12
PICTURE = {"Content-Type": "image/png"}


@contextlib.contextmanager
def started(package: ModelPackage, home: Path, drain_s: float) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = free_port()
    environment = dict(os.environ) | {"EOLGUL_AUTH": "off", "EOLGUL_DRAIN_S": str(drain_s), "EOLGUL_CONCURRENCY": "2"}
    argv, env = launch.command(port=port, model=package.path, home=home, environment=environment)
    process = subprocess.Popen(argv, env=env, stdout=sys.stderr, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        launch.wait_ready(f"http://127.0.0.1:{port}", process)
        yield port, process
    finally:
        launch.stop(process)


class Load:
    """Clients that keep their connection as long as the service lets them, reconnect, and go on until refused."""

    def __init__(self, port: int, picture: bytes) -> None:
        self._port, self._picture = port, picture
        self.answers: list[tuple[int, bool]] = []  # status, whether the answer closed the connection
        self.refused = 0
        self.failures: list[str] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _client(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        while True:
            if connection.sock is None:
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    with self._lock:
                        self.refused += 1
                    return
            try:
                if number % 3:
                    connection.request("GET", "/livez")
                else:
                    connection.request("POST", "/v1/embed", self._picture, PICTURE)
                answer = connection.getresponse()
                answer.read()
            except Exception as error:
                with self._lock:
                    self.failures.append(repr(error))
                return
            with self._lock:
                self.answers.append((answer.status, answer.getheader("Connection") == "close"))


@pytest.mark.parametrize("round_", range(5))
def test_no_accepted_request_fails(package: ModelPackage, people: People, tmp_path: Path, round_: int) -> None:
    with started(package, tmp_path, drain_s=0.5) as (port, process):
        load = Load(port, people.a1)
        load.start()
        time.sleep(0.7 + 0.05 * round_)
        before = len(load.answers)
        process.send_signal(signal.SIGTERM)
        load.join()
        assert process.wait(20) in (0, -signal.SIGTERM)
    assert load.failures == []
    assert load.refused == CLIENTS
    assert {status for status, _ in load.answers} == {200}
    assert before >= CLIENTS
    assert sum(closed for _, closed in load.answers) >= CLIENTS
    assert len(load.answers) > before


def test_new_requests_are_answered_while_readyz_says_no(package: ModelPackage, tmp_path: Path) -> None:
    with started(package, tmp_path, drain_s=2) as (port, process):
        url = f"http://127.0.0.1:{port}"
        assert "connection" not in httpx.get(f"{url}/livez").headers
        process.send_signal(signal.SIGTERM)
        ready = eventually(lambda: httpx.get(f"{url}/readyz"), lambda answer: answer.status_code == 503)
        assert ready.json()["detail"] == "the service is shutting down"
        live = httpx.get(f"{url}/livez")
        assert (live.status_code, live.headers["connection"]) == (200, "close")
        process.wait(20)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_an_upload_under_way_is_waited_for(package: ModelPackage, people: People, tmp_path: Path) -> None:
    body = people.a1
    head = f"POST /v1/embed HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
    with started(package, tmp_path, drain_s=0) as (port, process):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
            slow.sendall(head.encode() + body[: len(body) // 2])
            process.send_signal(signal.SIGTERM)
            time.sleep(3)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
            assert process.poll() is None
            slow.sendall(body[len(body) // 2 :])
            assert slow.recv(12) == b"HTTP/1.1 200"
        process.wait(20)


def test_a_second_signal_does_not_wait_for_load_balancers(package: ModelPackage, tmp_path: Path) -> None:
    with started(package, tmp_path, drain_s=60) as (_, process):
        (worker,) = workers(process.pid)
        os.kill(worker, signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        process.wait(15)


def workers(supervisor: int) -> list[int]:
    """The children of `supervisor` that run BentoML's worker (the other is multiprocessing's tracker)."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return [int(child) for child in children if b"worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


def eventually(ask: Callable[[], httpx.Response], good: Callable[[httpx.Response], bool]) -> httpx.Response:
    for _ in range(100):
        if good(answer := ask()):
            return answer
        time.sleep(0.02)
    raise AssertionError(answer)


def test_a_drain_that_is_no_number_is_said_before_anything_starts(package: ModelPackage, tmp_path: Path) -> None:
    environment = dict(os.environ) | {"EOLGUL_DRAIN_S": "soon"}
    options: dict[str, Any] = {"model": package.path, "home": tmp_path, "environment": environment}
    with (
        pytest.raises(InputError, match=r"^EOLGUL_DRAIN_S: expected seconds, got 'soon'$"),
        launch.running(port=free_port(), **options),
    ):
        pass


@pytest.mark.parametrize(
    ("headers", "read", "closes"),
    [([], False, True), ([(b"content-length", b"9")], True, True), ([(b"content-length", b"9")], False, False)],
    ids=["no-body", "body-read", "body-not-read"],
)
def test_an_answer_closes_only_what_was_received(headers: list[tuple[bytes, bytes]], read: bool, closes: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if read:
            await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        return {"type": "http.request", "body": b"123456789"}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/livez", "headers": headers}
    asyncio.run(Edge(app, unready=str, draining=lambda: True)(scope, receive, send))
    assert ((b"connection", b"close") in sent[0]["headers"]) == closes
