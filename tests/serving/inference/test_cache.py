"""The cache answers for the very model and image it was asked about, or not at all; and it may break."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
import redis
from support.serving import People, RedisServer, Service

from eolgul.artifact import recipe_digest
from eolgul.model.package import EmbeddingContract, ModelPackage
from eolgul.serving import metrics
from eolgul.serving.inference.cache import CacheKey, EmbeddingCache, pack, unpack
from eolgul.serving.inference.model import Analysis, Face
from eolgul.serving.keyring import Keyring
from eolgul.serving.redis_link import RedisLink

Fresh = Callable[[bytes], bytes]
T = TypeVar("T")
RING = Keyring.ephemeral()
KEY = CacheKey.from_image("t", "m" * 64, "c" * 64, b"image")
LANDMARKS = tuple((float(i), float(i + 1)) for i in range(5))
ANALYSIS = Analysis(
    np.random.default_rng(0).normal(size=512).astype(np.float32),
    Face((1.5, 2.0, 3.0, 4.0), 0.99, LANDMARKS, {"sharpness": 0.5}),
    2,
    640,
    480,
)


def assert_same(left: Analysis | None, right: Analysis) -> None:
    assert left is not None
    np.testing.assert_array_equal(left.embedding, right.embedding)
    assert (left.face, left.faces, left.width, left.height) == (right.face, right.faces, right.width, right.height)


def test_pack_round_trip() -> None:
    assert_same(unpack(KEY, pack(KEY, ANALYSIS, RING), RING), ANALYSIS)


@pytest.mark.parametrize("field", ["tenant", "model", "contract", "image"])
def test_a_value_is_believed_under_its_own_key_only(field: str) -> None:
    other = replace(KEY, **{field: "d" * 64})
    assert str(other) != str(KEY)
    assert unpack(other, pack(KEY, ANALYSIS, RING), RING) is None


def test_any_changed_byte_is_noticed() -> None:
    value = pack(KEY, ANALYSIS, RING)
    for place in range(0, len(value), 7):
        assert unpack(KEY, value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :], RING) is None
        assert unpack(KEY, value[:place], RING) is None


def test_the_contract_is_part_of_the_key() -> None:
    digests = {
        recipe_digest(contract.to_json())
        for contract in (EmbeddingContract(), EmbeddingContract(color="BGR"), EmbeddingContract(flip="none"))
    }
    assert len(digests) == 3


def run(url: str, use: Callable[[EmbeddingCache], Awaitable[T]], pause_s: float = 0.2) -> T:
    async def inside() -> T:
        link = RedisLink(url, name="cache", timeout_s=0.5, pause_s=pause_s)
        cache = EmbeddingCache(link, RING, ttl_s=60)
        try:
            return await use(cache)
        finally:
            await cache.close()

    return asyncio.run(inside())


def count(outcome: str) -> float:
    return metrics.CACHE.labels(outcome)._value.get()


def test_store_and_find_with_a_time_to_live(redis_server: RedisServer) -> None:
    key = replace(KEY, image=hashlib.sha256(os.urandom(8)).hexdigest())
    other = replace(key, model="o" * 64)

    async def use(cache: EmbeddingCache) -> list[Analysis | None]:
        await cache.put(key, ANALYSIS)
        return await cache.get([key, other])

    found, absent = run(redis_server.url, use)
    assert_same(found, ANALYSIS)
    assert absent is None
    assert 0 < redis.Redis.from_url(redis_server.url).ttl(key.name) <= 60


@pytest.mark.parametrize("garbage", [b"", b"nonsense", b"\x80\x04pickle", b"x" * 5000, pack(KEY, ANALYSIS, RING)[:-1]])
def test_garbage_is_ignored_and_counted(redis_server: RedisServer, garbage: bytes) -> None:
    key = replace(KEY, image=hashlib.sha256(os.urandom(8)).hexdigest())
    redis.Redis.from_url(redis_server.url).hset(key.name, key.field, garbage)
    before = count("error")
    assert run(redis_server.url, lambda cache: cache.get([key])) == [None]
    assert count("error") == before + 1


def test_no_redis_costs_little_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    before = count("error")

    async def use(cache: EmbeddingCache) -> float:
        start = time.perf_counter()
        for _ in range(50):
            assert await cache.get([KEY]) == [None]
            await cache.put(KEY, ANALYSIS)
        return time.perf_counter() - start

    assert run("redis://127.0.0.1:1/0", use, pause_s=5) < 1.0
    assert count("error") == before + 100
    assert len([record for record in caplog.records if record.name == "eolgul.redis"]) == 1


def fresh_key() -> CacheKey:
    return replace(KEY, image=hashlib.sha256(os.urandom(8)).hexdigest())


def test_equal_requests_at_once_compute_once_and_the_first_may_leave(redis_server: RedisServer) -> None:
    key, calls = fresh_key(), 0

    async def use(cache: EmbeddingCache) -> None:
        async def compute() -> Analysis:
            nonlocal calls
            calls += 1
            await asyncio.sleep(0.1)
            return ANALYSIS

        waiting = [asyncio.create_task(cache.get_or_compute(key, compute)) for _ in range(20)]
        await asyncio.sleep(0.05)
        waiting[0].cancel()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(ended[0], asyncio.CancelledError)
        for one in ended[1:]:
            assert not isinstance(one, BaseException)
            assert_same(one[0], ANALYSIS)
        assert (await cache.get_or_compute(key, compute))[1]

    run(redis_server.url, use)
    assert calls == 1


def test_a_failed_or_abandoned_computation_is_not_kept(redis_server: RedisServer) -> None:
    key = fresh_key()

    async def use(cache: EmbeddingCache) -> None:
        async def fail() -> Analysis:
            raise ValueError("no face")

        async def never() -> Analysis:
            await asyncio.Event().wait()
            return ANALYSIS

        async def compute() -> Analysis:
            return ANALYSIS

        ended = await asyncio.gather(*(cache.get_or_compute(key, fail) for _ in range(3)), return_exceptions=True)
        assert [str(one) for one in ended] == ["no face"] * 3
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cache.get_or_compute(key, never), 0.05)
        assert not (await cache.get_or_compute(key, compute))[1]

    run(redis_server.url, use)


def test_forgetting_an_image_takes_all_models_and_no_other_tenant(redis_server: RedisServer) -> None:
    key = fresh_key()
    keys = [key, replace(key, model="o" * 64), replace(key, tenant="u")]

    async def use(cache: EmbeddingCache) -> list[Analysis | None]:
        for one in keys:
            await cache.put(one, ANALYSIS)
        assert await cache.forget("t", [key.image])
        return await cache.get(keys)

    gone, other_model, other_tenant = run(redis_server.url, use)
    assert gone is None and other_model is None
    assert_same(other_tenant, ANALYSIS)


def test_a_full_redis_still_answers_look_ups(redis_server: RedisServer) -> None:
    client, before = redis.Redis.from_url(redis_server.url), count("error")
    kept, refused = fresh_key(), fresh_key()

    async def use(cache: EmbeddingCache) -> list[Analysis | None]:
        await cache.put(kept, ANALYSIS)
        client.config_set("maxmemory", 1)
        await cache.put(refused, ANALYSIS)
        return await cache.get([kept, refused])

    try:
        found, absent = run(redis_server.url, use)
    finally:
        client.config_set("maxmemory", 0)
    assert_same(found, ANALYSIS)
    assert absent is None and count("error") == before + 1


def test_two_models_beside_one_redis(
    service: Service,
    other_service: Service,
    people: People,
    package: ModelPackage,
    other_package: ModelPackage,
    fresh: Fresh,
) -> None:
    image = fresh(people.a1)
    first = service.embed(image).json()
    other = other_service.embed(image).json()
    again, other_again = service.embed(image).json(), other_service.embed(image).json()
    assert (first["cached"], other["cached"], again["cached"], other_again["cached"]) == (False, False, True, True)
    assert (first["model"], other["model"]) == (package.digest, other_package.digest)
    assert first["embedding"] == again["embedding"] and other["embedding"] == other_again["embedding"]
    assert abs(np.dot(first["embedding"], other["embedding"])) < 0.5


def test_two_images_beside_one_redis(service: Service, people: People, fresh: Fresh) -> None:
    left, right = fresh(people.a1), fresh(people.b1)
    one, two = service.embed(left).json(), service.embed(right).json()
    assert service.embed(left).json()["embedding"] == one["embedding"] != two["embedding"]


def test_values_moved_or_damaged_in_redis_change_no_answer(
    service: Service, redis_server: RedisServer, people: People, fresh: Fresh
) -> None:
    store = redis.Redis.from_url(redis_server.url)
    store.flushall()
    left, right = fresh(people.a1), fresh(people.b1)
    expected = service.verify(left, right).json()
    one, two = sorted(store.keys("eolgul:embedding:*"))
    for old, moved in ((one, "aside"), (two, one), ("aside", two)):  # each image under the other's name
        store.rename(old, moved)
    errors = service.metric("eolgul_cache_total", outcome="error")
    answer = service.verify(left, right).json()
    assert answer["similarity"] == expected["similarity"] and answer["cached"] == [False, False]
    assert service.metric("eolgul_cache_total", outcome="error") == errors + 2
    assert service.verify(left, right).json()["cached"] == [True, True]  # healed


def test_redis_killed_paused_and_back(
    service: Service, redis_server: RedisServer, people: People, fresh: Fresh
) -> None:
    image = fresh(people.a1)
    expected = service.embed(image).json()["embedding"]
    assert service.embed(image).json()["cached"] is True
    errors = service.metric("eolgul_cache_total", outcome="error")
    redis_server.kill()
    try:
        for _ in range(3):
            answer = service.embed(image).json()
            np.testing.assert_allclose(answer["embedding"], expected, atol=1e-6)
            assert answer["cached"] is False
        assert service.metric("eolgul_cache_total", outcome="error") > errors
    finally:
        redis_server.start()
    assert_recovers(service, image)
    assert redis_server.process is not None
    redis_server.process.send_signal(signal.SIGSTOP)  # connected, silent
    try:
        start = time.perf_counter()
        response = service.embed(image)
        assert response.status_code == 200 and response.json()["cached"] is False
        assert time.perf_counter() - start < 5  # one timeout of 0.8 s, and the work itself on a busy machine
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    assert_recovers(service, image)


def assert_recovers(service: Service, image: bytes) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if service.embed(image).json()["cached"]:
            return
        time.sleep(0.05)
    raise AssertionError("the cache did not come back")


def test_nothing_of_a_picture_is_in_the_key_or_value(people: People) -> None:
    key = CacheKey.from_image("t", "m", "c", people.a1)
    assert key.image == hashlib.sha256(people.a1).hexdigest()
    assert io.BytesIO(people.a1).read(64) not in pack(key, ANALYSIS, RING)
