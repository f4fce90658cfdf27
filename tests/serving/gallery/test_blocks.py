"""A large gallery is read by blocks: the same people, whatever changes before, while and after they are written."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import redis
from support.serving import RedisServer

from eolgul.serving.gallery import blocks, indexes
from eolgul.serving.gallery.store import Gallery
from eolgul.serving.gallery.templates import NewTemplate
from eolgul.serving.keyring import Keyring
from eolgul.serving.redis_link import RedisLink

RING = Keyring({"one": b"1" * 32})
RNG = np.random.default_rng(0)
PEOPLE = 120


@pytest.fixture
def url(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> str:
    redis.Redis.from_url(redis_server.url).flushall()
    monkeypatch.setattr(indexes, "BLOCKS_FROM", 50)
    monkeypatch.setattr(blocks, "DIGITS", 1)
    monkeypatch.setattr(blocks, "PREFIXES", tuple("0123456789abcdef"))
    return redis_server.url


def gallery(url: str, ring: Keyring = RING) -> Gallery:
    return Gallery(RedisLink(url, name="gallery", timeout_s=2, pause_s=0.1), ring)


def new(model: str = "m") -> NewTemplate:
    vector = RNG.normal(size=32).astype(np.float32)
    return NewTemplate(model, "c", vector / np.linalg.norm(vector), RNG.bytes(32).hex(), {})


async def enroll(where: Gallery, people: int = PEOPLE) -> dict[str, NewTemplate]:
    templates = {f"p{number}": new("other" if number % 9 == 0 else "m") for number in range(people)}
    for person, template in templates.items():
        await where.enroll("t", person, [template])
    return templates


async def check(where: Gallery, templates: dict[str, NewTemplate]) -> None:
    """Everyone is found by their own template, and nobody else is there."""
    mine = {person: template for person, template in templates.items() if template.model == "m"}
    for person, template in mine.items():
        found = await where.identify("t", "m", template.embedding, 1)
        assert found.matches[0].person == person and found.matches[0].similarity == pytest.approx(1, abs=1e-6)
        assert (found.people, found.templates, found.other_models) == (len(mine), len(mine), len(templates) - len(mine))


def written(url: str) -> list[bytes]:
    client: Any = redis.Redis.from_url(url)
    values = [client.get(name) for name in client.scan_iter("*:block:*")]
    return [value for value in values if value and not value.startswith(b"reading ")]


def counted(where: Gallery) -> list[int]:
    """How many people each later read of the gallery asks Redis for, one by one."""
    counts: list[int] = []
    models = where._indexes._models

    async def count(tenant: str, pseudonyms: Sequence[str]) -> Any:
        counts.append(len(pseudonyms))
        return await models(tenant, pseudonyms)

    where._indexes._models = count  # type: ignore[method-assign]
    return counts


def test_blocks_are_written_once_and_hold_everyone(url: str) -> None:
    async def use() -> None:
        first = gallery(url)
        templates = await enroll(first)
        assert written(url) == []
        await first.warm(["t"])
        assert first.warmed and len(written(url)) == 16
        second = gallery(url)
        counts = counted(second)
        await check(second, templates)
        assert counts == []
        for one in (first, second):
            await one.close()

    asyncio.run(use())


def test_a_change_empties_its_block_and_the_next_start_reads_only_that(url: str) -> None:
    async def use() -> None:
        here = gallery(url)
        templates = await enroll(here)
        await here.warm(["t"])
        erased = await here.delete_person("t", "p5")
        del templates["p5"]
        templates["late"] = new()
        late = await here.enroll("t", "late", [templates["late"]])
        changed = {blocks.prefix_of(erased.pseudonym), blocks.prefix_of(late.pseudonym)}
        assert len(written(url)) == 16 - len(changed)
        bounds = [f"gallery\0t\0{prefix}\0block".encode() for prefix in blocks.PREFIXES]
        everything = b"".join(RING.open(value, bound) or b"" for value in written(url) for bound in bounds)
        gone = bytes.fromhex(erased.pseudonym)[:8][::-1]  # little-endian, as blocks have it
        kept = await here.pseudonym("t", "p6")
        assert gone not in everything and bytes.fromhex(kept)[:8][::-1] in everything
        there = gallery(url)
        counts = counted(there)
        await check(there, templates)
        assert 0 < sum(counts) < PEOPLE / 2 and len(written(url)) == 16
        await check(here, templates)
        for one in (here, there):
            await one.close()

    asyncio.run(use())


@pytest.mark.parametrize("seed", range(6))
def test_changes_while_blocks_are_read_and_written_are_in_no_block_that_is_out_of_date(url: str, seed: int) -> None:
    async def use() -> None:
        rng = np.random.default_rng(seed)
        writer, reader = gallery(url), gallery(url)
        templates = await enroll(writer)
        models = reader._indexes._models

        async def slow(tenant: str, pseudonyms: Sequence[str]) -> Any:
            read = await models(tenant, pseudonyms)
            await asyncio.sleep(rng.random() / 100)  # between the read of people and the write of their block
            return read

        reader._indexes._models = slow  # type: ignore[method-assign]
        warming = asyncio.create_task(reader.warm(["t"]))
        while not warming.done():
            person = f"p{rng.integers(PEOPLE)}"
            if person in templates and rng.random() < 0.5:
                await writer.delete_person("t", person)
                del templates[person]
            elif person not in templates:
                templates[person] = new()
                await writer.enroll("t", person, [templates[person]])
            await asyncio.sleep(rng.random() / 500)
        await warming
        await check(reader, templates)
        fresh = gallery(url)
        await check(fresh, templates)
        for one in (writer, reader, fresh):
            await one.close()

    asyncio.run(use())


def test_blocks_of_an_older_key_or_damaged_are_read_anew(url: str) -> None:
    newer = Keyring({"two": b"2" * 32, "one": b"1" * 32})

    async def use() -> None:
        here, there = gallery(url), gallery(url, newer)
        templates = await enroll(here)
        await here.warm(["t"])
        counts = counted(there)
        await check(there, templates)
        assert sum(counts) == PEOPLE and len(written(url)) == 16
        assert all(not newer.is_stale(value) for value in written(url))
        client: Any = redis.Redis.from_url(url)
        for number, name in enumerate(sorted(client.scan_iter("*:block:*"))):
            value = client.get(name)
            body = newer.seal(b"[1]\n", b"gallery\0t\0%s\0block" % name[-1:])
            client.set(name, (value[:-1], value[:40], b"", b"\0" * 100, body)[number % 5])
        last = gallery(url, newer)
        await check(last, templates)
        assert len(written(url)) == 16
        for one in (here, there, last):
            await one.close()

    asyncio.run(use())


def test_a_redis_that_has_no_room_for_blocks_is_read_all_the_same(url: str) -> None:
    async def use() -> None:
        here = gallery(url)
        templates = await enroll(here)
        client: Any = redis.Redis.from_url(url)
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        try:
            await here.warm(["t"])
            await check(here, templates)
            assert written(url) == []
        finally:
            client.config_set("maxmemory", 0)
        await here.close()

    asyncio.run(use())


def test_without_redis_the_start_goes_on() -> None:
    here = Gallery(RedisLink("redis://127.0.0.1:9/0", name="gallery", timeout_s=0.2), RING)
    asyncio.run(here.warm(["t"]))
    assert here.warmed


def test_readyz_waits_for_the_gallery_and_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from eolgul.serving import service

    reading = Gallery(RedisLink("redis://127.0.0.1:9/0", name="gallery", timeout_s=0.2), RING)
    state = SimpleNamespace(loader=SimpleNamespace(ready=True, failure="no model"), gallery=reading)
    monkeypatch.setattr(service.APP.state, "eolgul", state, raising=False)
    monkeypatch.setattr(service.APP.state, "missing", "", raising=False)
    monkeypatch.setattr(service.APP.state, "drain", SimpleNamespace(draining=False), raising=False)
    assert not service._ready() and service._unready() == "the gallery is being read: no template yet"
    asyncio.run(reading.warm(["t"]))
    assert service._ready()
    state.loader.ready = False
    assert not service._ready() and service._unready() == "no model"
