"""Embeddings kept in Redis between requests. The cache may be down, slow or lying: answers stay right without it.

A value is bound to its key: its checksum covers model digest, embedding contract digest and image hash together with
the content, so a value found under another key, or damaged, is not believed. Nothing in it is ever executed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from serving import metrics
from serving.model import Analysis, Face

logger = logging.getLogger("eolgul.cache")
_MAGIC = b"eolgul-embedding-1\n"
_LOG_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Model package digest, digest of its embedding contract, sha256 of the encoded image; all hex."""

    model: str
    contract: str
    image: str

    @classmethod
    def of(cls, model: str, contract: str, data: bytes) -> CacheKey:
        return cls(model, contract, hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return f"eolgul:embedding:1:{self.model}:{self.contract}:{self.image}"


def pack(key: CacheKey, analysis: Analysis) -> bytes:
    """magic, sha256 of key and body (32 bytes), body: one line of JSON, then the embedding as little-endian float32."""
    face = analysis.face
    facts = {
        "box": face.box,
        "score": face.detection_score,
        "landmarks": face.landmarks,
        "faces": analysis.faces,
        "size": [analysis.width, analysis.height],
    }
    body = json.dumps(facts).encode() + b"\n" + analysis.embedding.astype("<f4").tobytes()
    return _MAGIC + _checksum(key, body) + body


def unpack(key: CacheKey, value: bytes) -> Analysis | None:
    """The analysis `pack` was given for this very key, None for anything else."""
    start = len(_MAGIC) + 32
    if not value.startswith(_MAGIC) or value[len(_MAGIC) : start] != _checksum(key, value[start:]):
        return None
    line, _, vector = value[start:].partition(b"\n")
    facts: dict[str, Any] = json.loads(line)
    x1, y1, x2, y2 = facts["box"]
    landmarks = tuple((float(x), float(y)) for x, y in facts["landmarks"])
    embedding = np.frombuffer(vector, "<f4").astype(np.float32)
    face = Face((x1, y1, x2, y2), float(facts["score"]), landmarks)
    return Analysis(embedding, face, int(facts["faces"]), int(facts["size"][0]), int(facts["size"][1]))


def _checksum(key: CacheKey, body: bytes) -> bytes:
    return hashlib.sha256(str(key).encode() + b"\0" + body).digest()


class EmbeddingCache:
    """Look-ups and stores that never raise and never take much longer than `timeout_s`.

    After a failure Redis is left alone for `pause_s`, so that a dead one costs one timeout a pause and not one a
    request; the first use after the pause finds out whether it is back.
    """

    def __init__(self, url: str, *, ttl_s: int, timeout_s: float, pause_s: float) -> None:
        self._ttl_s, self._timeout_s, self._pause_s = ttl_s, timeout_s, pause_s
        self._paused_until = 0.0
        self._logged_at = -_LOG_EVERY_S
        self._redis: Redis | None = None
        if url:
            self._redis = Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),  # the client's default retries take seconds
                health_check_interval=0,
            )

    async def get(self, keys: Sequence[CacheKey]) -> list[Analysis | None]:
        """What is known of each key. Counts hits, misses and errors, one for each key."""
        if self._redis is None:
            return [None] * len(keys)
        if monotonic() < self._paused_until:
            metrics.CACHE.labels("error").inc(len(keys))
            return [None] * len(keys)
        try:
            async with asyncio.timeout(2 * self._timeout_s):  # also bounds connecting and waiting for a connection
                values = await self._redis.mget([str(key) for key in keys])
        except (RedisError, OSError, TimeoutError) as error:
            self._failed("look-up", error, len(keys))
            return [None] * len(keys)
        return [self._read(key, value) for key, value in zip(keys, values, strict=True)]

    async def put(self, key: CacheKey, analysis: Analysis) -> None:
        """Keep an analysis for the TTL; a failure is counted and logged, not raised."""
        if self._redis is None or monotonic() < self._paused_until:
            return
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                await self._redis.set(str(key), pack(key, analysis), ex=self._ttl_s)
        except (RedisError, OSError, TimeoutError) as error:
            self._failed("store", error, 1)

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()

    def _read(self, key: CacheKey, value: bytes | str | None) -> Analysis | None:
        if value is None:
            metrics.CACHE.labels("miss").inc()
            return None
        analysis = unpack(key, value) if isinstance(value, bytes) else None
        if analysis is None:
            self._log("a value in the cache is not what was stored under its key; it is ignored")
        metrics.CACHE.labels("error" if analysis is None else "hit").inc()
        return analysis

    def _failed(self, what: str, error: Exception, count: int) -> None:
        self._paused_until = monotonic() + self._pause_s
        metrics.CACHE.labels("error").inc(count)
        self._log(f"cache {what} failed, answering without it: {type(error).__name__}: {error}")

    def _log(self, sentence: str) -> None:
        """At most a line every half minute: a dead Redis must not fill the log."""
        if monotonic() - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = monotonic()
            logger.warning(sentence)
