"""How often a key may call: a sliding window over a minute, counted in Redis for all workers together.

A sliding window counter: the requests of this minute, plus those of the last one weighed by the part of it that still
lies within the past sixty seconds. It lets no double burst through at the turn of the minute, as a fixed window does,
and takes two small integers a key. Workers on several machines need clocks that agree within a second or so.

The `limits` library has it too, but 5.8.0 counts through Lua scripts, which our Redis user may not run (@scripting),
and declares redis < 8. INCR, EXPIRE and GET in one round trip do the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from redis.asyncio import Redis

from eolgul.serving.access.keys import Caller
from eolgul.serving.problems import RejectionError

WINDOW_S = 60


class Link(Protocol):
    """What is used of `eolgul.serving.redis_link.RedisLink`: the call's value, or its `UNREACHABLE`, which is no list."""

    async def run(self, what: str, call: Callable[[Redis], Awaitable[Any]]) -> Any: ...


@dataclass(frozen=True, slots=True)
class Allowance:
    """Requests a minute (0: no limit), how many are left, and the seconds until all of them are there again."""

    limit: int
    remaining: int
    reset_s: int

    @property
    def headers(self) -> dict[str, str]:
        """The draft standard's `RateLimit-*` fields; none when there is no limit."""
        if not self.limit:
            return {}
        values = {"Limit": self.limit, "Remaining": self.remaining, "Reset": self.reset_s}
        return {f"RateLimit-{name}": str(value) for name, value in values.items()}


class RateLimitedError(RejectionError):
    """`rate_limited`. `retry_after`: whole seconds until a request will be let through."""

    def __init__(self, allowance: Allowance, retry_after: int) -> None:
        super().__init__(
            f"more than {allowance.limit} requests a minute with this API key; try again in {retry_after} s",
            "rate_limited",
        )
        self.allowance, self.retry_after = allowance, retry_after


class RateLimit:
    """The limit of every key, this process's part of it.

    Requests are counted here too, so that when Redis is down or slow (the link's timeout) this process goes on by its
    own count: each of n workers then lets the whole limit through. A refused request is not counted, and a refused key
    is refused from memory until its time comes: a flood costs Redis one question.
    """

    def __init__(
        self,
        link: Link | None,
        default_per_minute: int,
        *,
        clock: Callable[[], float] = time.time,
        fallback: Callable[[], None] | None = None,
    ) -> None:
        """`default_per_minute` is for keys without a limit of their own, 0 for none. `clock` gives seconds since the
        epoch. `fallback` is called for every request that was judged by this process's count because Redis failed."""
        self._link, self._default, self._clock = link, default_per_minute, clock
        self._fallback = fallback or (lambda: None)
        self._counts: dict[tuple[str, int], int] = {}
        self._refused: dict[str, tuple[float, int]] = {}  # until when, and by which limit

    async def check(self, caller: Caller) -> Allowance:
        """Count a request and say what is left. RateLimitedError when it is one too many."""
        limit = self._default if caller.requests_per_minute is None else caller.requests_per_minute
        if not limit:
            return Allowance(0, 0, 0)
        now = self._clock()
        until, by = self._refused.get(caller.key_id, (0.0, limit))
        if now < until and by == limit:
            raise _limited(limit, until - now)
        self._refused.pop(caller.key_id, None)
        window, elapsed = int(now // WINDOW_S), now % WINDOW_S
        before, after = self._count_here(caller.key_id, window)
        counted = await self._count_in_redis(caller.key_id, window)
        previous, current = (before, after) if counted is None else counted
        if _weighed(previous, current, elapsed) <= limit:
            remaining = math.floor(limit - _weighed(previous, current, elapsed))
            # What was let through in this minute has left the window for good at the end of the next one.
            return Allowance(limit, remaining, math.ceil(2 * WINDOW_S - elapsed))
        self._counts[caller.key_id, window] -= 1
        if counted is not None:
            await self._run("give a refused request back", lambda redis: redis.decr(_name(caller.key_id, window)))
        wait = _wait(limit, previous, current - 1, elapsed)
        self._refused[caller.key_id] = (now + wait, limit)
        raise _limited(limit, wait)

    def _count_here(self, key_id: str, window: int) -> tuple[int, int]:
        for old in [one for one in self._counts if one[1] < window - 1]:
            del self._counts[old]
        here = self._counts.get((key_id, window), 0) + 1
        self._counts[key_id, window] = here
        return self._counts.get((key_id, window - 1), 0), here

    async def _count_in_redis(self, key_id: str, window: int) -> tuple[int, int] | None:
        if self._link is None:
            return None

        async def count(redis: Redis) -> list[Any]:
            pipeline = redis.pipeline(transaction=False)  # the window is in the name: no step depends on another
            pipeline.incr(_name(key_id, window))
            pipeline.expire(_name(key_id, window), 2 * WINDOW_S)
            pipeline.get(_name(key_id, window - 1))
            values: list[Any] = await pipeline.execute()
            return values

        values = await self._run("count a request", count)
        try:
            return int(values[2] or 0), int(values[0])
        except (TypeError, ValueError, IndexError):  # no answer, or something that is no count
            self._fallback()
            return None

    async def _run(self, what: str, call: Callable[[Redis], Awaitable[Any]]) -> Any:
        return None if self._link is None else await self._link.run(what, call)


def _name(key_id: str, window: int) -> str:
    return f"eolgul:rate:1:{key_id}:{window}"


def _weighed(previous: int, current: int, elapsed: float) -> float:
    return current + previous * (1 - elapsed / WINDOW_S)


def _wait(limit: int, previous: int, current: int, elapsed: float) -> float:
    """Seconds until one more request fits, when `current` were let through in this window and `previous` in the last."""
    if current < limit:  # it is the last window's share that has to shrink
        return max(0.0, WINDOW_S * (1 - (limit - 1 - current) / previous) - elapsed)
    return WINDOW_S - elapsed + max(0.0, WINDOW_S * (1 - (limit - 1) / current))


def _limited(limit: int, wait: float) -> RateLimitedError:
    seconds = max(1, math.ceil(wait))
    return RateLimitedError(Allowance(limit, 0, seconds), seconds)
