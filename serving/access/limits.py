"""Rate limits of API keys: a sliding window of one minute, counted in Redis for all workers together.

A sliding window counter adds the requests of this minute to those of the previous one, weighted by the part of it that
lies within the last sixty seconds. Unlike a fixed window it admits no double burst at the turn of the minute, and it needs
two small integers per key. Workers on several machines need clocks that agree within about a second.

The library `limits` has such a counter, but 5.8.0 uses Lua scripts, which the service's Redis user may not run
(@scripting), and requires redis < 8. INCR, EXPIRE and GET in one round trip do the same.
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
    """The part of `eolgul.serving.redis_link.RedisLink` that is used here."""

    async def run(self, what: str, call: Callable[[Redis], Awaitable[Any]]) -> Any:
        """The value of the call, or `UNREACHABLE`, which is not a list."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """Requests per minute (0: no limit), how many remain, and the seconds until all of them are available again."""

    limit: int
    remaining: int
    reset_s: int

    @property
    def headers(self) -> dict[str, str]:
        """The `RateLimit-*` header fields of the IETF draft; empty without a limit."""
        if not self.limit:
            return {}
        values = {"Limit": self.limit, "Remaining": self.remaining, "Reset": self.reset_s}
        return {f"RateLimit-{name}": str(value) for name, value in values.items()}


class RateLimitedError(RejectionError):
    """The error `rate_limited`. `retry_after`: whole seconds until a request will be admitted."""

    def __init__(self, allowance: Allowance, retry_after: int) -> None:
        super().__init__(
            f"more than {allowance.limit} requests a minute with this API key; try again in {retry_after} s",
            "rate_limited",
        )
        self.allowance, self.retry_after = allowance, retry_after


class RateLimit:
    """Checks the rate limit of every key.

    This process counts requests too. If Redis is down or slow (the timeout of the link), the process uses its own count:
    each of n workers then admits the whole limit. A refused request is not counted, and a refused key is refused from
    memory until its time comes, so a flood costs Redis one call.
    """

    def __init__(
        self,
        link: Link | None,
        default_per_minute: int,
        *,
        clock: Callable[[], float] = time.time,
        fallback: Callable[[], None] | None = None,
    ) -> None:
        """Create the check.

        Args:
            link: The Redis of the shared counts; None to count in this process only.
            default_per_minute: The limit of keys without one of their own; 0 for none.
            clock: Returns seconds since the epoch.
            fallback: Called for every request that is checked with this process's count because Redis failed.
        """
        self._link, self._default, self._clock = link, default_per_minute, clock
        self._fallback = fallback or (lambda: None)
        self._counts: dict[tuple[str, int], int] = {}
        # By key id: the time until which the key is refused, and the limit that refused it.
        self._refused: dict[str, tuple[float, int]] = {}

    async def check(self, caller: Caller) -> Allowance:
        """Count a request and return what remains. RateLimitedError if the request exceeds the limit."""
        limit = self._default if caller.requests_per_minute is None else caller.requests_per_minute
        if not limit:
            return Allowance(0, 0, 0)
        now = self._clock()
        until, refused_limit = self._refused.get(caller.key_id, (0.0, limit))
        if now < until and refused_limit == limit:
            raise _limited(limit, until - now)
        self._refused.pop(caller.key_id, None)
        window, elapsed = int(now // WINDOW_S), now % WINDOW_S
        own_counts = self._count_here(caller.key_id, window)
        counted = await self._count_in_redis(caller.key_id, window)
        previous, current = own_counts if counted is None else counted
        if _weighted(previous, current, elapsed) <= limit:
            remaining = math.floor(limit - _weighted(previous, current, elapsed))
            # The requests of this minute have all left the window at the end of the next one.
            return Allowance(limit, remaining, math.ceil(2 * WINDOW_S - elapsed))
        self._counts[caller.key_id, window] -= 1
        if counted is not None:
            await self._run("count correction", lambda redis: redis.decr(_name(caller.key_id, window)))
        wait = _wait(limit, previous, current - 1, elapsed)
        self._refused[caller.key_id] = (now + wait, limit)
        raise _limited(limit, wait)

    def _count_here(self, key_id: str, window: int) -> tuple[int, int]:
        for old in [key for key in self._counts if key[1] < window - 1]:
            del self._counts[old]
        here = self._counts.get((key_id, window), 0) + 1
        self._counts[key_id, window] = here
        return self._counts.get((key_id, window - 1), 0), here

    async def _count_in_redis(self, key_id: str, window: int) -> tuple[int, int] | None:
        if self._link is None:
            return None

        async def count(redis: Redis) -> list[Any]:
            # No transaction: the key names the window, so no command depends on another.
            pipeline = redis.pipeline(transaction=False)
            pipeline.incr(_name(key_id, window))
            pipeline.expire(_name(key_id, window), 2 * WINDOW_S)
            pipeline.get(_name(key_id, window - 1))
            values: list[Any] = await pipeline.execute()
            return values

        values = await self._run("count", count)
        try:
            return int(values[2] or 0), int(values[0])
        except (TypeError, ValueError, IndexError):  # no answer, or a value that is not a count
            self._fallback()
            return None

    async def _run(self, what: str, call: Callable[[Redis], Awaitable[Any]]) -> Any:
        return None if self._link is None else await self._link.run(what, call)


def _name(key_id: str, window: int) -> str:
    return f"eolgul:rate:1:{key_id}:{window}"


def _weighted(previous: int, current: int, elapsed: float) -> float:
    return current + previous * (1 - elapsed / WINDOW_S)


def _wait(limit: int, previous: int, current: int, elapsed: float) -> float:
    """Seconds until one more request fits, after `current` admitted requests in this window and `previous` in the last."""
    if current < limit:  # the share of the previous window has to shrink
        return max(0.0, WINDOW_S * (1 - (limit - 1 - current) / previous) - elapsed)
    return WINDOW_S - elapsed + max(0.0, WINDOW_S * (1 - (limit - 1) / current))


def _limited(limit: int, wait: float) -> RateLimitedError:
    seconds = max(1, math.ceil(wait))
    return RateLimitedError(Allowance(limit, 0, seconds), seconds)
