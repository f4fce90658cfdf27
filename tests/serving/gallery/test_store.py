"""The gallery: exact, seen by every replica at once, encrypted, and erased when it says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import redis
from numpy.typing import NDArray
from support.serving import RedisServer

from eolgul.serving.access.audit import Audit
from eolgul.serving.gallery import listing
from eolgul.serving.gallery.store import Gallery
from eolgul.serving.gallery.templates import Identity, NewTemplate
from eolgul.serving.gallery.values import key
from eolgul.serving.keyring import Keyring
from eolgul.serving.problems import RejectionError
from eolgul.serving.redis_link import RedisLink

T = TypeVar("T")
RING = Keyring({"one": b"1" * 32})
RNG = np.random.default_rng(0)


def unit(*shape: int) -> NDArray[np.float32]:
    values = RNG.normal(size=shape).astype(np.float32)
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True), np.float32)


def new(embedding: NDArray[np.float32] | None = None, model: str = "m", image: str | None = None) -> NewTemplate:
    vector = unit(64) if embedding is None else embedding
    return NewTemplate(model, "c", vector, image or RNG.bytes(32).hex(), {"sharpness": 1.0})


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    redis.Redis.from_url(redis_server.url).flushall()
    return redis_server.url


def run(url: str, use: Callable[..., Awaitable[T]], replicas: int = 1, ring: Keyring = RING, **options: Any) -> T:
    async def inside() -> T:
        links = [RedisLink(url, name="gallery", timeout_s=2, pause_s=0.1) for _ in range(replicas)]
        galleries = [Gallery(link, ring, **options) for link in links]
        try:
            return await use(*galleries)
        finally:
            for gallery in galleries:
                await gallery.close()

    return asyncio.run(inside())


def refused(code: str) -> Any:
    return pytest.raises(RejectionError, check=lambda error: error.code == code)


def dump(url: str) -> dict[bytes, Any]:
    """Everything in Redis, each key with all that it holds."""
    client: Any = redis.Redis.from_url(url)
    readers = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"stream": client.xrange,
    }
    return {key: readers[client.type(key)](key) for key in client.scan_iter()}


def blobs(value: Any) -> list[bytes]:
    if isinstance(value, bytes):
        return [value]
    if isinstance(value, dict):
        return [blob for pair in value.items() for one in pair for blob in blobs(one)]
    return [blob for one in value or () for blob in blobs(one)]


def test_erasure_leaves_nothing_and_the_other_replica_knows_at_once(url: str) -> None:
    template, other = new(), new()

    async def use(here: Gallery, there: Gallery) -> list[str]:
        await here.enroll("t", "kim-jisu-77", [template])
        await here.enroll("t", "other", [other])
        before = await there.identify("t", "m", template.embedding, 1)
        assert before.matches[0].person == "kim-jisu-77" and before.matches[0].similarity > 0.9999
        erased = await here.delete_person("t", "kim-jisu-77")
        assert (erased.templates, erased.images) == (1, [template.image])
        after = await there.identify("t", "m", template.embedding, 5)
        assert [match.person for match in after.matches] == ["other"] and after.templates == 1
        with refused("person_not_found"):
            await there.delete_person("t", "kim-jisu-77")
        return [erased.pseudonym, (await here.enroll("t", "other", [other])).pseudonym]

    pseudonyms = run(url, use, replicas=2)
    everything = blobs(dump(url))
    names = [blob.decode("ascii", "replace") for blob in everything]  # template ids and `id` are among them
    bounds = {f"gallery\0t\0{pseudonym}\0{name}".encode() for pseudonym in pseudonyms for name in names}
    bounds.add(b"index secret")
    opened = [plain for blob in everything for bound in bounds if (plain := RING.open(blob, bound)) is not None]
    assert len(opened) == 3  # the secret, the other person's id and template: the search does find what is there
    assert any(other.image.encode() in plain for plain in opened)
    for blob in everything + opened:
        assert b"kim-jisu" not in blob
        assert template.image.encode() not in blob and bytes.fromhex(template.image) not in blob
        assert template.embedding.tobytes() not in blob


def test_nothing_is_in_the_clear(url: str) -> None:
    template = new()
    run(url, lambda gallery: gallery.enroll("t", "김지수", [template]))
    everything = b"".join(dump(url)) + b"".join(blob for value in dump(url).values() for blob in blobs(value))
    assert "김지수".encode() not in everything and template.image.encode() not in everything
    assert template.embedding.tobytes() not in everything


def test_exact_at_20000_templates(url: str) -> None:
    people, each = 2_000, 10
    embeddings = unit(people, each, 64)

    async def use(writer: Gallery, reader: Gallery) -> None:
        for number in range(people):
            await writer.enroll("t", f"p{number}", [new(one) for one in embeddings[number]])
        for probe in unit(20, 64):
            best = (embeddings.reshape(-1, 64) @ probe).reshape(people, each).max(axis=1)
            expected = np.argsort(-best)[:10]
            found = await reader.identify("t", "m", probe, 10)
            assert [match.person for match in found.matches] == [f"p{number}" for number in expected]
            np.testing.assert_allclose([match.similarity for match in found.matches], best[expected], atol=1e-6)
            assert (found.people, found.templates, found.other_models) == (people, people * each, 0)
        await writer.enroll("t", "late", [new(probe)])
        assert (await reader.identify("t", "m", probe, 1)).matches[0].person == "late"
        await writer.delete_person("t", "p7")
        assert all(match.person != "p7" for match in (await reader.identify("t", "m", embeddings[7, 0], 50)).matches)

    run(url, use, replicas=2)


def test_other_models_are_counted_and_never_compared(url: str) -> None:
    mine, theirs = new(), new(model="n")

    async def use(gallery: Gallery) -> None:
        await gallery.enroll("t", "a", [mine, theirs])
        found = await gallery.identify("t", "m", theirs.embedding, 5)
        assert [match.similarity for match in found.matches] == [
            pytest.approx(mine.embedding @ theirs.embedding, abs=1e-6)
        ]
        assert found.other_models == 1
        assert not (await gallery.identify("t", "unknown", theirs.embedding, 5)).matches
        assert not (await gallery.identify("u", "m", mine.embedding, 5)).matches  # another tenant

    run(url, use)


def test_concurrent_enrolments_of_two_replicas_keep_the_limits(url: str) -> None:
    async def use(here: Gallery, there: Gallery) -> None:
        jobs = [gallery.enroll("t", "a", [new()]) for _ in range(15) for gallery in (here, there)]
        ended = await asyncio.gather(*jobs, return_exceptions=True)
        codes = [one.code for one in ended if isinstance(one, RejectionError)]
        assert codes == ["gallery_full"] * 10 and sum(not isinstance(one, BaseException) for one in ended) == 20
        jobs = [
            gallery.enroll("t", f"p{number}{at}", [new()])
            for number in range(5)
            for at, gallery in enumerate((here, there))
        ]
        ended = await asyncio.gather(*jobs, return_exceptions=True)
        assert sum(not isinstance(one, BaseException) for one in ended) == 3  # and `a` make four
        page = await here.people("t")
        assert page.total == len(page.people) == 4 and {one.person: one.templates for one in page.people}["a"] == 20
        assert (await there.identify("t", "m", unit(64), 9)).templates == 23

    run(url, use, replicas=2, max_people=4)


def test_a_repeated_enrolment_adds_nothing_and_one_template_can_go(url: str) -> None:
    first, second = new(), new()

    async def use(gallery: Gallery) -> None:
        one = await gallery.enroll("t", "a", [first])
        again = await gallery.enroll("t", "a", [first, second])
        assert again.added == 1 and again.templates[0].id == one.templates[0].id
        with refused("template_not_found"):
            await gallery.delete_template("t", "a", "id")
        assert (await gallery.delete_template("t", "a", one.templates[0].id)).images == [first.image]
        await gallery.delete_template("t", "a", again.templates[1].id)
        assert (await gallery.people("t")).total == 0
        with refused("person_not_found"):
            await gallery.delete_person("t", "a")

    run(url, use)


def test_paging_and_export(url: str) -> None:
    templates = {f"p{number}": new() for number in range(7)}

    async def use(gallery: Gallery) -> None:
        for person, template in templates.items():
            await gallery.enroll("t", person, [template])
        seen: list[str] = []
        after: str | None = ""
        while after is not None:
            page = await gallery.people("t", after=after, limit=3)
            seen += [one.person for one in page.people]
            after = page.next
        assert sorted(seen) == sorted(templates)
        records = {record.person: record.template async for record in gallery.export("t")}
        assert records.keys() == templates.keys()
        for person, template in templates.items():
            np.testing.assert_array_equal(records[person].embedding, template.embedding)
            assert records[person].image == template.image

    run(url, use)


@pytest.mark.parametrize("person", ["", " a", "a\n", "x" * 129])
def test_impossible_ids_are_refused(url: str, person: str) -> None:
    with refused("bad_request"):
        run(url, lambda gallery: gallery.enroll("t", person, [new()]))


def test_rotation_keeps_everyone_and_the_old_key_can_go(url: str) -> None:
    template = new()
    run(url, lambda gallery: gallery.enroll("t", "a", [template]))
    assert run(url, lambda gallery: gallery.reseal("t"), ring=Keyring({"two": b"2" * 32, "one": b"1" * 32})) == 2

    async def use(gallery: Gallery) -> None:
        assert not (await gallery.enroll("t", "a", [replace(template)])).added
        assert (await gallery.identify("t", "m", template.embedding, 1)).matches[0].person == "a"

    # reseal alone must have moved the secret too
    run(url, use, ring=Keyring({"two": b"2" * 32}))
    with refused("gallery_unavailable"):
        run(url, use, ring=Keyring({"one": b"1" * 32}))


def test_garbage_is_no_partial_answer_and_can_be_erased(url: str) -> None:
    client = redis.Redis.from_url(url)

    async def use(gallery: Gallery) -> None:
        pseudonym = (await gallery.enroll("t", "a", [new()])).pseudonym
        await gallery.enroll("t", "b", [new()])
        client.hset(f"eolgul:gallery:1:{{t}}:person:{pseudonym}", "bad", b"garbage")
        with refused("gallery_unavailable"):
            await gallery.identify("t", "m", unit(64), 1)
        assert (await gallery.delete_person("t", "a")).templates == 2
        assert [match.person for match in (await gallery.identify("t", "m", unit(64), 5)).matches] == ["b"]

    run(url, use)


def test_flushed_and_trimmed_logs_are_noticed(url: str) -> None:
    client = redis.Redis.from_url(url)
    template = new()

    async def use(gallery: Gallery) -> None:
        await gallery.enroll("t", "a", [template])
        assert (await gallery.identify("t", "m", template.embedding, 1)).matches
        for number in range(3):
            await gallery.enroll("t", f"b{number}", [new()])
        client.xtrim("eolgul:gallery:1:{t}:changes", maxlen=1, approximate=False)
        assert (await gallery.identify("t", "m", template.embedding, 1)).people == 4
        client.flushall()
        assert not (await gallery.identify("t", "m", template.embedding, 1)).matches

    run(url, use)


def test_a_renaming_loses_nothing_that_another_replica_does_at_once(url: str) -> None:
    """One replica renames back and forth, another enrolls the same person by either name, a third reads."""
    templates = [new() for _ in range(12)]

    async def use(here: Gallery, there: Gallery, reader: Gallery) -> None:
        await here.enroll("t", "a", [templates[0]])
        await here.update("t", "a", None, {"k": "v"})

        async def rename() -> int:
            done = 0
            for number in range(40):
                try:
                    await here.update("t", *(("a", "b") if number % 2 == 0 else ("b", "a")), None)
                    done += 1
                except RejectionError as error:
                    assert error.code in ("person_not_found", "person_exists")
            return done

        async def enroll() -> None:
            for template in templates[1:]:
                await there.enroll("t", "a", [template])
                assert (await reader.identify("t", "m", template.embedding, 1)).matches[0].similarity > 0.99

        done, _ = await asyncio.gather(rename(), enroll())
        assert done > 0
        page = await here.people("t")
        assert sum(one.templates for one in page.people) == len(templates) and page.total == len(page.people) <= 2
        assert {"k": "v"} in [one.metadata for one in page.people]
        for template in templates:
            assert (await there.identify("t", "m", template.embedding, 1)).matches[0].similarity > 0.99
        for one in page.people:
            await here.delete_person("t", one.person)
        assert (await there.identify("t", "m", unit(64), 1)).templates == 0

    run(url, use, replicas=3)
    assert not [name for name in dump(url) if b":person:" in name]


def test_a_name_that_is_taken_meanwhile_is_not_written_over(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(here: Gallery, there: Gallery) -> None:
        await here.enroll("t", "a", [new()])
        await there.enroll("t", "b", [new()])
        taken = key("t", "person", await there.pseudonym("t", "b"))
        store: Any = redis.Redis.from_url(url)
        held = store.hgetall(taken)
        await there.delete_person("t", "b")
        seal = here._sealed_identity

        def late(*arguments: Any) -> bytes:
            store.hset(taken, mapping=held)  # another replica, between our look and our write
            return seal(*arguments)

        monkeypatch.setattr(here, "_sealed_identity", late)
        with refused("person_exists"):
            await here.update("t", "a", "b", None)
        assert store.hgetall(taken) == held

    run(url, use, replicas=2)


def test_after_a_renaming_nothing_is_left_of_the_old_name(url: str) -> None:
    template = new()

    async def use(here: Gallery, there: Gallery) -> None:
        await here.enroll("t", "a", [template])
        before = await here.pseudonym("t", "a")
        assert (await there.identify("t", "m", template.embedding, 1)).matches[0].person == "a"
        changed = await here.update("t", "a", "b", {"k": "v"})
        assert changed.pseudonym == before and changed.renamed_to == await here.pseudonym("t", "b")
        held = dump(url)
        gone = key("t", "person", before).encode()
        assert gone not in held and before.encode() not in held[key("t", "people").encode()]
        assert (await there.identify("t", "m", template.embedding, 1)).matches[0].person == "b"
        assert [(one.person, one.metadata) for one in (await there.people("t")).people] == [("b", {"k": "v"})]
        again = await here.update("t", "b", "b", None)
        assert again.renamed_to is None and again.person.identity.metadata == {"k": "v"}

    run(url, use, replicas=2)


def test_a_search_looks_at_so_many_people_and_goes_on(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_SEARCHED", 20)
    monkeypatch.setattr(listing, "_SEARCH_CHUNK", 10)
    names = [f"p{number:03}" for number in range(57)]

    async def use(gallery: Gallery) -> None:
        for name in names:
            await gallery.enroll("t", name, [new()])
        for limit in (1, 3, 100):
            found, after, pages = [], "", 0
            while True:
                page = await gallery.people("t", after=after, limit=limit, matches=lambda name: name.endswith("7"))
                assert len(page.people) <= limit and page.total == len(names)
                found += [one.person for one in page.people]
                pages += 1
                if page.next is None:
                    break
                after = page.next
            assert sorted(found) == [name for name in names if name.endswith("7")] and pages >= 3

    run(url, use)


@pytest.mark.parametrize("created", ["2026-01-01T00:00:00.000+00:00"])
def test_what_older_versions_sealed_of_a_person_is_read(created: str) -> None:
    assert Identity.unpack(f"{created}\nKim {{}} 5".encode()) == Identity(created, "Kim {} 5", {})
    kept = Identity(created, "김 민준", {"a b": "line\nbreak", "é": '"{}'})
    assert Identity.unpack(kept.pack()) == kept
    assert kept.pack().decode().partition("\n")[2] == "김 민준"  # as 0.3.0 and before read it


def test_a_restricted_user_is_enough(url: str) -> None:
    client = redis.Redis.from_url(url)
    rules = ["reset", "on", ">pw", "~eolgul:*", "+@read", "+@write", "+@transaction", "+@connection", "-@dangerous"]
    client.execute_command("ACL", "SETUSER", "limited", *rules)
    template = new()

    async def use(gallery: Gallery) -> None:
        await gallery.enroll("t", "a", [template])
        assert (await gallery.identify("t", "m", template.embedding, 1)).matches
        assert (await gallery.people("t")).total == 1
        assert (await gallery.people("t", matches=lambda name: name == "a")).people
        await gallery.update("t", "a", "b", {"k": "v"})
        await gallery.reseal("t")
        await gallery.delete_person("t", "b")

    run(url.replace("://", "://limited:pw@"), use)


def test_a_dead_redis_is_unavailable() -> None:
    with refused("gallery_unavailable"):
        run("redis://127.0.0.1:1/0", lambda gallery: gallery.identify("t", "m", unit(64), 1))


def test_the_audit_log_appends_a_line_an_action(tmp_path: Path) -> None:
    for outcome in ("ok", "gallery_full"):
        Audit(tmp_path / "audit.jsonl").write(
            "enroll", tenant="t", key_id="k", person="p", templates=2, outcome=outcome
        )
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["ok", "gallery_full"]
    assert lines[0].keys() == {"time", "tenant", "key_id", "action", "person", "templates", "model", "outcome"}
