"""The embedding cache in Redis. It may be down, slow, full or hold wrong values: answers stay correct without it.

A value is encrypted and bound to its key (tenant, model digest, embedding contract digest, image hash): a damaged value, or
one under another key, does not open and is ignored. Nothing in it is ever executed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any
from urllib.parse import quote

import numpy as np
from redis.asyncio import Redis

from eolgul.serving import metrics
from eolgul.serving.inference.model import Analysis, Face
from eolgul.serving.keyring import Keyring
from eolgul.serving.redis_link import RedisLink, Unreachable


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Tenant, and three hex digests: of the model package, its embedding contract and the encoded image (SHA-256)."""

    tenant: str
    model: str
    contract: str
    image: str

    @classmethod
    def from_image(cls, tenant: str, model: str, contract: str, data: bytes) -> CacheKey:
        """The key of an encoded image."""
        return cls(tenant, model, contract, hashlib.sha256(data).hexdigest())

    @property
    def name(self) -> str:
        """The Redis hash of this tenant's image; one for all models, so that an image is deleted without a search."""
        return _name(self.tenant, self.image)

    @property
    def field(self) -> str:
        """The field in that hash."""
        return f"{self.model}:{self.contract}"

    def __str__(self) -> str:
        return f"{self.name}:{self.field}"


def _name(tenant: str, image: str) -> str:
    return f"eolgul:embedding:3:{quote(tenant, safe='')}:{image}"


def pack(key: CacheKey, analysis: Analysis, keyring: Keyring) -> bytes:
    """Seal an analysis for `key`: one line of JSON with its fields, then the embedding as little-endian float32."""
    facts = {name: value for name, value in asdict(analysis).items() if name != "embedding"}
    return keyring.seal(
        json.dumps(facts).encode() + b"\n" + analysis.embedding.astype("<f4").tobytes(), str(key).encode()
    )


def unpack(key: CacheKey, value: bytes, keyring: Keyring) -> Analysis | None:
    """Open a value that `pack` sealed for this key; None for any other value."""
    body = keyring.open(value, str(key).encode())
    if body is None:
        return None
    line, _, vector = body.partition(b"\n")
    try:  # authentic, but possibly from a version with other fields
        facts: dict[str, Any] = json.loads(line)
        face = facts.pop("face")
        face["reasons"] = tuple(face["reasons"])
        face["box"], face["landmarks"] = tuple(face["box"]), tuple(tuple(point) for point in face["landmarks"])
        if facts.keys() != {field.name for field in fields(Analysis)} - {"embedding", "face"}:
            return None
        return Analysis(embedding=np.frombuffer(vector, "<f4").astype(np.float32), face=Face(**face), **facts)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


@dataclass(slots=True)
class _Flight:
    """A computation under way and the number of requests that wait for it."""

    task: asyncio.Task[tuple[Analysis, bool]]
    waiting: int = 0


class EmbeddingCache:
    """The cache; look-ups and stores never raise.

    Without Redis (`link` is None), requests with the same image at the same time still share one computation.
    """

    def __init__(self, link: RedisLink | None, keyring: Keyring, *, ttl_s: int) -> None:
        self._link, self._keyring, self._ttl_s = link, keyring, ttl_s
        self._flights: dict[CacheKey, _Flight] = {}

    async def get_or_compute(self, key: CacheKey, compute: Callable[[], Awaitable[Analysis]]) -> tuple[Analysis, bool]:
        """Look an analysis up, or compute and store it; simultaneous requests for one key do this only once.

        The first request may be cancelled without effect on the others; the work is cancelled when no request waits for it.
        All of them get the exception of `compute`, so it must not name anything of one request (its form field).

        Returns:
            The analysis, and whether it was in the cache.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(self._fetch(key, compute)))
            flight.task.add_done_callback(lambda task, flight=flight: self._on_done(key, flight))  # type: ignore[misc]
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._drop_flight(key, flight)
                flight.task.cancel()

    async def get(self, keys: Sequence[CacheKey]) -> list[Analysis | None]:
        """The stored analysis of each key, or None; counts a hit, a miss or an error per key."""
        if self._link is None:
            return [None] * len(keys)

        async def look_up(redis: Redis) -> list[Any]:
            async with redis.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hget(key.name, key.field)
                return await pipe.execute(raise_on_error=False)

        values = await self._link.run("look-up", look_up)
        if isinstance(values, Unreachable):
            metrics.CACHE.labels("error").inc(len(keys))
            return [None] * len(keys)
        foreign = [key.name for key, value in zip(keys, values, strict=True) if "WRONGTYPE" in str(value)]
        if foreign:  # not a hash: nothing could be stored there either until it expires
            await self._link.run("deletion", lambda redis: redis.delete(*foreign))
        return [self._read(key, value) for key, value in zip(keys, values, strict=True)]

    async def put(self, key: CacheKey, analysis: Analysis) -> None:
        """Store an analysis until its time to live ends; a failure is counted and logged, not raised."""
        if self._link is None:
            return

        async def store(redis: Redis) -> None:
            async with redis.pipeline(transaction=True) as pipe:  # so that no value lacks its time to live
                pipe.hset(key.name, key.field, pack(key, analysis, self._keyring))
                pipe.expire(key.name, self._ttl_s)
                await pipe.execute()

        if isinstance(await self._link.run("store", store), Unreachable):
            metrics.CACHE.labels("error").inc()

    async def forget(self, tenant: str, image_sha256s: Sequence[str]) -> bool:
        """Delete the analyses of a tenant's images, of all models.

        Returns:
            False if Redis could not be reached; the values then stay until their time to live ends.
        """
        if self._link is None or not image_sha256s:
            return True
        names = [_name(tenant, image) for image in image_sha256s]
        outcome = await self._link.run("deletion", lambda redis: redis.delete(*names))
        if isinstance(outcome, Unreachable):
            metrics.CACHE.labels("error").inc()
            return False
        return True

    async def close(self) -> None:
        """Close the connections."""
        if self._link is not None:
            await self._link.close()

    async def _fetch(self, key: CacheKey, compute: Callable[[], Awaitable[Analysis]]) -> tuple[Analysis, bool]:
        [known] = await self.get([key])
        if known is not None:
            return known, True
        analysis = await compute()
        await self.put(key, analysis)
        return analysis, False

    def _on_done(self, key: CacheKey, flight: _Flight) -> None:
        self._drop_flight(key, flight)
        if not flight.task.cancelled():
            flight.task.exception()  # marks it as retrieved: requests that wait get it, and without any it needs no warning

    def _drop_flight(self, key: CacheKey, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _read(self, key: CacheKey, value: object) -> Analysis | None:
        if value is None:
            metrics.CACHE.labels("miss").inc()
            return None
        analysis = unpack(key, value, self._keyring) if isinstance(value, bytes) else None
        if analysis is None and self._link is not None:
            self._link.log(
                "cache: a value is ignored: it was not stored under this key, or its encryption key is missing", "value"
            )
        metrics.CACHE.labels("error" if analysis is None else "hit").inc()
        return analysis
