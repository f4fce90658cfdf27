"""The rate limit: never more than the limit in any sixty seconds but for the counter's estimate, shared through Redis,
and by this process's own count when Redis fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from support.serving import RedisServer, free_port

from eolgul.serving.access.keys import Caller
from eolgul.serving.access.limits import WINDOW_S, RateLimit, RateLimitedError
from eolgul.serving.redis_link import RedisLink

START = 1_700_000_040.0  # the beginning of a window
assert START % WINDOW_S == 0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class PlainLink:
    """Redis without a guard's pauses: a failure is None, as the guard's is. Counts the round trips."""

    def __init__(self, url: str) -> None:
        self.redis = Redis.from_url(url, socket_timeout=1.0, socket_connect_timeout=1.0)
        self.calls: list[str] = []

    async def run(self, what: str, call: Callable[[Redis], Awaitable[Any]]) -> Any:
        self.calls.append(what)
        try:
            return await call(self.redis)
        except (RedisError, OSError):
            return None


@asynccontextmanager
async def linked(url: str) -> AsyncIterator[PlainLink]:
    link = PlainLink(url)
    try:
        yield link
    finally:
        await link.redis.aclose()


def caller(key_id: str, per_minute: int | None = None) -> Caller:
    return Caller("acme", key_id, frozenset({"verify"}), per_minute)


async def let_through(limit: RateLimit, who: Caller, tries: int) -> int:
    count = 0
    for _ in range(tries):
        try:
            await limit.check(who)
            count += 1
        except RateLimitedError:
            pass
    return count


def test_two_workers_share_one_limit(redis_server: RedisServer) -> None:
    async def inside() -> None:
        clock = Clock()
        async with linked(redis_server.url) as one, linked(redis_server.url) as two:
            workers = RateLimit(one, 20, clock=clock), RateLimit(two, 20, clock=clock)
            passed = [await let_through(worker, caller("shared"), 8) for worker in (*workers, *workers)]
            assert sum(passed) == 20
            assert await let_through(workers[0], caller("another"), 3) == 3

    asyncio.run(inside())


def test_requests_at_once_are_counted_one_by_one(redis_server: RedisServer) -> None:
    async def inside() -> int:
        async with linked(redis_server.url) as link:
            limit = RateLimit(link, 10, clock=Clock())
            ended = await asyncio.gather(*(limit.check(caller("crowd")) for _ in range(40)), return_exceptions=True)
            assert all(isinstance(one, RateLimitedError) for one in ended if isinstance(one, BaseException))
            return sum(not isinstance(one, BaseException) for one in ended)

    assert asyncio.run(inside()) == 10


def test_the_window_slides_and_retry_after_is_kept() -> None:
    async def inside() -> None:
        clock = Clock()
        limit = RateLimit(None, 6, clock=clock)
        clock.now = START + 50
        assert await let_through(limit, caller("k"), 6) == 6
        for _ in range(20):  # from refusal to refusal, as a client that honours Retry-After goes
            with pytest.raises(RateLimitedError) as caught:
                await limit.check(caller("k"))
            wait = caught.value.retry_after
            assert caught.value.code == "rate_limited" and wait >= 1
            assert caught.value.allowance.headers["RateLimit-Remaining"] == "0"
            clock.now += wait
            await limit.check(caller("k"))
            while True:
                try:
                    await limit.check(caller("k"))
                except RateLimitedError:
                    break

    asyncio.run(inside())


def test_no_double_burst_at_the_turn_of_the_minute() -> None:
    async def inside() -> None:
        clock = Clock()
        limit = RateLimit(None, 100, clock=clock)
        clock.now = START + 59
        assert await let_through(limit, caller("k"), 150) == 100
        clock.now = START + 61
        assert await let_through(limit, caller("k"), 150) <= 2  # a fixed window would let 100 through
        clock.now = START + 3 * WINDOW_S
        assert await let_through(limit, caller("k"), 150) == 100

    asyncio.run(inside())


def test_a_flood_costs_redis_nothing_and_does_not_prolong_the_wait(redis_server: RedisServer) -> None:
    async def inside() -> None:
        clock = Clock()
        async with linked(redis_server.url) as link:
            limit = RateLimit(link, 5, clock=clock)
            assert await let_through(limit, caller("flood"), 1000) == 5
            assert len(link.calls) == 7  # five counted, one counted and given back
            clock.now += 2 * WINDOW_S
            assert await let_through(limit, caller("flood"), 10) == 5

    asyncio.run(inside())


def test_counters_end_by_themselves(redis_server: RedisServer) -> None:
    async def inside() -> None:
        async with linked(redis_server.url) as link:
            await RateLimit(link, 5).check(caller("ends"))
            names = [name async for name in link.redis.scan_iter("eolgul:rate:1:ends:*")]
            assert len(names) == 1 and 0 < await link.redis.ttl(names[0]) <= 2 * WINDOW_S

    asyncio.run(inside())


def test_without_redis_this_process_counts_on() -> None:
    async def inside() -> None:
        fallbacks = 0

        def fell_back() -> None:
            nonlocal fallbacks
            fallbacks += 1

        async with linked(f"redis://127.0.0.1:{free_port()}/0") as link:
            limit = RateLimit(link, 4, clock=Clock(), fallback=fell_back)
            assert await let_through(limit, caller("k"), 9) == 4
            assert fallbacks == 5

    asyncio.run(inside())


def test_the_guarded_link_is_one_of_those(redis_server: RedisServer) -> None:
    async def passed(url: str) -> int:
        link = RedisLink(url, name="rate", timeout_s=0.5, pause_s=60)
        try:
            limits = [RateLimit(link, 4, clock=Clock()) for _ in range(2)]
            return sum([await let_through(limit, caller("guarded"), 4) for limit in limits])
        finally:
            await link.close()

    assert asyncio.run(passed(redis_server.url)) == 4  # counted together
    assert asyncio.run(passed(f"redis://127.0.0.1:{free_port()}/0")) == 8  # each by its own count


def test_what_was_let_through_before_redis_went_is_remembered(redis_server: RedisServer) -> None:
    async def inside() -> None:
        async with linked(redis_server.url) as alive, linked(f"redis://127.0.0.1:{free_port()}/0") as dead:
            limit = RateLimit(alive, 6, clock=Clock())
            assert await let_through(limit, caller("memory"), 4) == 4
            limit._link = dead
            assert await let_through(limit, caller("memory"), 9) == 2

    asyncio.run(inside())


def test_a_value_that_is_no_count_is_not_believed(redis_server: RedisServer) -> None:
    async def inside() -> None:
        clock = Clock()
        async with linked(redis_server.url) as link:
            window = int(clock() // WINDOW_S)
            await link.redis.set(f"eolgul:rate:1:lies:{window}", "many")
            await link.redis.set(f"eolgul:rate:1:lies2:{window - 1}", "many")
            limit = RateLimit(link, 4, clock=clock)
            assert await let_through(limit, caller("lies"), 9) == 4
            assert await let_through(limit, caller("lies2"), 9) == 4

    asyncio.run(inside())


def test_a_keys_own_limit_goes_before_the_default() -> None:
    async def inside() -> None:
        limit = RateLimit(None, 0)
        assert (await limit.check(caller("free"))).headers == {}
        assert await let_through(limit, caller("bound", 3), 5) == 3
        headers = (await limit.check(caller("fresh", 3))).headers
        assert headers["RateLimit-Limit"] == "3" and headers["RateLimit-Remaining"] == "2"
        assert 1 <= int(headers["RateLimit-Reset"]) <= 2 * WINDOW_S

    asyncio.run(inside())
