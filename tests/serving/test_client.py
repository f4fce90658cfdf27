"""`eolgul.client`, blocking and asyncio, against the real service with keys, a gallery and limits."""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from support.serving import People, RedisServer, Service, free_port, serve

from eolgul.client import AsyncClient, Client, EolgulError, Retries
from eolgul.errors import InputError
from eolgul.images.decode import decode
from eolgul.model.package import ModelPackage
from eolgul.serving.access.keys import ADMIN, SCOPES, new_key
from eolgul.serving.keyring import new_line

Fresh = Callable[[bytes], bytes]
ONCE = Retries(attempts=1)
NAMES = ["홍 길동", "a+b & c?d=e#f", "O'Brien %2F", "Zoë"]


@dataclass
class World:
    url: str
    keys: dict[str, str]
    service: Service
    store: redis.Redis

    def client(self, key: str = "all", **options: Any) -> Client:
        return Client(self.url, api_key=self.keys[key], **options)


@pytest.fixture(scope="module")
def world(
    package: ModelPackage, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """One image at a time and nobody waits; a Redis of its own for the gallery."""
    folder = tmp_path_factory.mktemp("client")
    file = folder / "keys.json"
    keys = {
        "all": new_key(file, tenant="one", scopes=SCOPES)[0],
        "other": new_key(file, tenant="two", scopes=SCOPES)[0],
        "admin": new_key(file, tenant="one", scopes=(ADMIN,))[0],
        "verifier": new_key(file, tenant="one", scopes=("verify",))[0],
        "slow": new_key(file, tenant="one", scopes=("detect",), requests_per_minute=10)[0],
    }
    (folder / "encryption").write_text(new_line() + "\n")
    settings: dict[str, Any] = {
        "auth": "on",
        "api_keys_file": file,
        "encryption_keys_file": folder / "encryption",
        "gallery_url": redis_server.url.removesuffix("/0") + "/9",
        "redis_timeout_s": 0.4,
        "gallery_timeout_s": 2,
        "concurrency": 1,
        "queue": 0,
    }
    for service in serve(package, redis_server.url, folder / "home", **settings):
        yield World(str(service.client.base_url), keys, service, redis.Redis.from_url(redis_server.url))


class Blocking:
    """AsyncClient with the manners of Client, so that one test is for both."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(*arguments, **options)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            made = getattr(self._client, name)(*arguments, **options)
            if isinstance(made, AsyncIterator):
                return iter(self._loop.run_until_complete(_all(made)))
            return self._loop.run_until_complete(made)

        return call


async def _all(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


@pytest.fixture(params=[Client, Blocking], ids=["sync", "async"])
def client(request: pytest.FixtureRequest, world: World) -> Iterator[Client]:
    with request.param(world.url, api_key=world.keys["all"]) as made:
        yield made


def codes(calls: Iterable[Callable[[], object]]) -> list[tuple[str, int | None, str | None]]:
    """Code, status and form field of the error that each call raises."""
    found = []
    for call in calls:
        with pytest.raises(EolgulError) as caught:
            call()
        found.append((caught.value.code, caught.value.status, caught.value.field))
    return found


def test_photos(client: Client, world: World, people: People, package: ModelPackage, tmp_path: Path) -> None:
    raw = world.service.client
    headers = {"authorization": f"Bearer {world.keys['all']}"}
    files = {"image1": people.a1, "image2": people.b1}
    expected = raw.post("/v1/verify", files=files, headers=headers).json()
    verified = client.verify(people.a1, people.b1)
    assert verified.similarity == pytest.approx(expected["similarity"], abs=1e-6)
    assert (verified.verdict, verified.model) == (expected["verdict"], package.digest)
    assert verified.synthetic and verified.false_match_rate == pytest.approx(expected["false_match_rate"])

    (tmp_path / "a.png").write_bytes(people.a1)
    many = client.verify_many(tmp_path / "a.png", [people.a1, b"no picture", people.b1])
    assert [one.index for one in many.results] == [0, 1, 2]
    same, broken, other = many.results
    assert same.comparison is not None and same.comparison.similarity == pytest.approx(1, abs=1e-5)
    assert broken.problem is not None and broken.problem.code == "not_an_image"
    assert other.comparison is not None
    assert other.comparison.similarity == pytest.approx(verified.similarity, abs=1e-5)

    left, right = client.embed(people.a1), client.embed(people.b1)
    assert np.linalg.norm(left.embedding) == pytest.approx(1, abs=1e-5)
    assert np.dot(left.embedding, right.embedding) == pytest.approx(verified.similarity, abs=1e-5)
    assert [one.embedding for one in client.embed_many([people.a1, people.b1], which="single").results] == [
        pytest.approx(one.embedding, abs=1e-5) for one in (left, right)
    ]
    for known in (client.verify_embedding(left, people.b1), client.verify_embedding(left, right)):
        assert known.similarity == pytest.approx(verified.similarity, abs=1e-5) and known.verdict == verified.verdict
    assert client.verify_embedding(left.embedding, right, model=left.model).unknown_quality == ("embedding1",)
    with pytest.raises(InputError, match="give `model`"):
        client.verify_embedding(left.embedding, right)
    assert len(client.verify(people.a1, people.b1, which="all").pairs) == len(
        client.embed(people.a1, which="all").faces
    )
    found = client.detect(people.a1)
    assert found.faces[0].crop is None
    crop = client.detect(people.a1, crops=True).faces[0].crop
    assert crop is not None
    assert decode(b64decode(crop))[0].shape == (112, 112, 3)
    [face] = [one for one in found.faces if one.chosen]
    assert face.box == pytest.approx(verified.faces[0].box) and found.size == verified.faces[0].size
    assert client.current_model().digest == package.digest and client.ready()


def test_gallery(client: Client, people: People) -> None:
    for person in client.people():
        client.delete_person(person.person)
    for name in NAMES:
        assert client.enroll(name, [people.a1, people.a2]).templates_total == 2
    assert client.enroll(NAMES[0], [people.a1]).templates_total == 2  # the image is there already
    client.enroll("someone else", [people.b1])
    assert sorted((one.person, one.templates) for one in client.people()) == sorted(
        [("someone else", 1), *((name, 2) for name in NAMES)]
    )
    found = client.identify(people.b1, k=2)
    assert found.people == 5 and len(found.candidates) == 2 and found.templates_of_other_models == 0
    assert found.candidates[0].person == "someone else"
    assert found.candidates[0].similarity == pytest.approx(1, abs=1e-5)

    assert client.verify_person(people.b1, "someone else").similarity == pytest.approx(1, abs=1e-5)
    assert client.identify(people.b1, which="all").faces[0].candidates[0].person == "someone else"
    assert client.rename_person("someone else", "anyone").templates and client.person("anyone").metadata == {}
    assert client.set_metadata("anyone", {"a": "b"}).metadata == {"a": "b"}
    assert [one.metadata for one in client.people(search="YONE", prefix="any")] == [{"a": "b"}]
    client.rename_person("anyone", "someone else")

    first, second = client.person(NAMES[1]).templates
    assert client.delete_template(NAMES[1], first.template).templates == 1
    assert [one.template for one in client.person(NAMES[1]).templates] == [second.template]
    records = list(client.export())
    assert sorted(one["person"] for one in records) == sorted(
        ["someone else", NAMES[1], *(name for name in NAMES if name != NAMES[1] for _ in range(2))]
    )
    assert all(len(one["embedding"]) == 512 for one in records)
    for name in NAMES:
        assert client.delete_person(name).person == name
    assert [one.person for one in client.people()] == ["someone else"]
    assert codes([lambda: client.person(NAMES[0])]) == [("person_not_found", 404, None)]


def test_keys(client: Client, world: World, people: People) -> None:
    assert codes([client.api_keys, lambda: client.revoke_api_key("x")]) == [("forbidden", 403, None)] * 2
    with type(client)(world.url, api_key=world.keys["admin"]) as admin:
        made = admin.make_api_key(["detect"], note="n", expires=datetime.now(UTC) + timedelta(days=1))
        with Client(world.url, api_key=made.key) as new:
            assert new.detect(people.a1).faces
        assert made.entry in admin.api_keys().keys
        assert admin.revoke_api_key(made.entry.id).revoked == made.entry


def test_pages_of_people(world: World, people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    from eolgul.client import blocking

    monkeypatch.setattr(blocking, "PAGE", 2)
    with world.client("other") as client:
        names = {f"p{number}" for number in range(5)}
        for name in names:
            client.enroll(name, [people.a1])
        assert {one.person for one in client.people()} == names
        assert len(list(client.people())) == 5


def test_errors_say_what_to_do(client: Client, world: World, people: People) -> None:
    too_large = b"\x89PNG\r\n\x1a\n" + bytes(11 << 20)
    assert codes([
        lambda: client.verify(people.a1, b"no picture"),
        lambda: client.embed(too_large),
        lambda: client.identify(people.a1, k=1000),
        lambda: client.enroll("a/b", [people.a1]),
        lambda: client.delete_template("nobody", "nothing"),
    ]) == [
        ("not_an_image", 422, "image2"),
        ("too_large", 413, None),
        ("bad_request", 400, "k"),
        ("bad_request", 400, "person"),
        ("person_not_found", 404, None),
    ]  # fmt: skip
    with world.client("verifier", retries=ONCE) as verifier, Client(world.url, retries=ONCE) as nobody:
        assert codes([
            lambda: verifier.embed(people.a1),
            lambda: list(verifier.people()),
            lambda: nobody.verify(people.a1, people.a2),
        ]) == [("forbidden", 403, None), ("forbidden", 403, None), ("unauthorized", 401, None)]  # fmt: skip
    with Client(f"http://127.0.0.1:{free_port()}", retries=ONCE) as nowhere:
        assert codes([lambda: nowhere.embed(people.a1)]) == [("no_answer", None, None)]
        assert not nowhere.ready()


def asked_before(world: World, key: str, wait_s: float) -> None:
    """Make the service's count of the last minute such that this key, of 10 requests a minute, must wait `wait_s`."""
    key_id = world.keys[key].split("_")[1]
    while (elapsed := time.time() % 60) > 40:  # else the wait would cross into the next minute
        time.sleep(0.2)
    window = int(time.time() // 60)
    world.store.delete(f"eolgul:rate:1:{key_id}:{window}")
    world.store.set(f"eolgul:rate:1:{key_id}:{window - 1}", round(9 / (1 - (elapsed + wait_s) / 60)), ex=120)


def test_a_limit_is_waited_for(world: World, people: People) -> None:
    asked_before(world, "slow", 4)
    with world.client("slow", retries=ONCE) as hasty:
        with pytest.raises(EolgulError) as caught:
            for _ in range(2):
                hasty.detect(people.a1)
        assert (caught.value.code, caught.value.status) == ("rate_limited", 429)
        assert caught.value.retry_after is not None and 1 <= caught.value.retry_after <= 8
    start = time.monotonic()
    with world.client("slow", retries=Retries(honour_s=0.5)) as impatient, pytest.raises(EolgulError):
        impatient.detect(people.a1)
    assert time.monotonic() - start < 1  # a wait longer than it honours is the caller's to decide
    with world.client("slow") as patient:
        assert patient.detect(people.a1).faces
    assert time.monotonic() - start >= caught.value.retry_after - 1.5


def test_a_busy_service_is_asked_again(world: World, people: People, fresh: Fresh) -> None:
    """Twelve at once where one is let in: each is answered in the end, and the service was not asked in a storm."""
    before = world.service.metric("eolgul_rejections_total", code="busy")
    pictures = [fresh(people.a1) for _ in range(12)]

    async def crowd() -> list[Any]:
        retries = Retries(attempts=20, first_s=0.05, longest_s=0.3)
        async with AsyncClient(world.url, api_key=world.keys["all"], retries=retries) as client:
            calls: list[Awaitable[Any]] = [client.embed(picture) for picture in pictures]
            return await asyncio.gather(*calls)

    answers = asyncio.run(crowd())
    assert {np.round(one.embedding, 4).tobytes() for one in answers} == {np.round(answers[0].embedding, 4).tobytes()}
    busy = world.service.metric("eolgul_rejections_total", code="busy") - before
    assert 1 <= busy <= 12 * 10
    with world.client(retries=ONCE) as hasty:  # and without patience the code is told
        assert hasty.embed(pictures[0]).cached
