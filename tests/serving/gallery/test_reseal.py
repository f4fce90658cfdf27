"""The gallery's encryption key is rotated while people are looked for; after another model, who must come again is listed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from support.serving import People, RedisServer, Service, serve

from eolgul.client import Client, EolgulError
from eolgul.model.package import ModelPackage
from eolgul.serving.access.keys import ADMIN, SCOPES, new_key
from eolgul.serving.keyring import key_id_of

NAMES = ("Hong Gil-dong", "김유신", "nobody else")
started = contextlib.contextmanager(serve)


@dataclass
class World:
    folder: Path
    gallery_url: str
    keys: dict[str, str]

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "auth": "on",
            "api_keys_file": self.folder / "keys.json",
            "encryption_keys_file": self.folder / "encryption",
            "gallery_url": self.gallery_url,
            "gallery_timeout_s": 5,
        }

    def client(self, service: Service, tenant: str) -> Client:
        return Client(str(service.client.base_url), api_key=self.keys[tenant])

    def run(self, *arguments: str, status: int = 0) -> tuple[list[dict[str, Any]], str]:
        """`eolgul gallery …` with the service's settings: its lines on stdout, and stderr."""
        environment = {f"EOLGUL_{name.upper()}": str(value) for name, value in self.settings.items()}
        environment = {name: value for name, value in environment.items() if name != "EOLGUL_API_KEY"}
        done = subprocess.run(
            [sys.executable, "-m", "eolgul", "gallery", *arguments],
            env=dict(os.environ) | environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    def sealed_with(self) -> set[str | None]:
        """The key ids of all values of the gallery."""
        store: Any = redis.Redis.from_url(self.gallery_url)
        found = {key_id_of(store.get("eolgul:gallery:1:secret"))}
        for name in store.keys("eolgul:gallery:1:*:person:*"):
            found |= {key_id_of(value) for value in store.hvals(name)}
        found |= {key_id_of(value) for value in store.hvals("eolgul:gallery:1:keys")}
        return found


@pytest.fixture
def world(redis_server: RedisServer, tmp_path: Path) -> Iterator[World]:
    gallery_url = redis_server.url.removesuffix("/0") + "/11"
    store = redis.Redis.from_url(gallery_url)
    store.flushdb()
    file = tmp_path / "keys.json"
    keys = {
        tenant: new_key(file, tenant=tenant, scopes=SCOPES, requests_per_minute=10**6)[0] for tenant in ("one", "two")
    }
    keys["admin"] = new_key(file, tenant="two", scopes=(ADMIN,))[0]
    yield World(tmp_path, gallery_url, keys)
    store.flushdb()


def test_a_rotation_under_load(
    world: World, package: ModelPackage, people: People, redis_server: RedisServer, tmp_path: Path
) -> None:
    encryption = world.folder / "encryption"
    [first] = world.run("new-key", "--id", "first")[0]
    assert first["active"] == "first" and encryption.stat().st_mode & 0o777 == 0o600
    with started(package, redis_server.url, tmp_path / "home", **world.settings) as service:
        for tenant in ("one", "two"):
            with world.client(service, tenant) as client:
                for name in NAMES:
                    client.enroll(name, [people.a1, people.a2])
        with world.client(service, "admin") as admin:
            world.keys["made"] = admin.make_api_key(["gallery", "identify"]).key
    assert world.sealed_with() == {"first"}
    world.run("new-key", "--id", "second")
    assert [line.partition(":")[0] for line in encryption.read_text().splitlines()] == ["second", "first"]

    with started(package, redis_server.url, tmp_path / "home", **world.settings) as service:
        ended, found, failures = threading.Event(), [], []

        def look() -> None:
            with world.client(service, "one") as client:
                while not ended.is_set():
                    try:
                        answer = client.identify(people.a1, k=3)
                        found.append((answer.people, {one.person for one in answer.candidates}))
                    except Exception as error:
                        failures.append(repr(error))

        threads = [threading.Thread(target=look) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            [told] = world.run("reseal")[0]
            [again] = world.run("reseal")[0]
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        values = len(NAMES) * 3  # two templates and the name
        counts = {"one": values, "two": values, "API keys": 1}
        assert told == {"active": "second", "resealed": 2 * values + 1, "tenants": counts}
        assert again["resealed"] == 0
        assert world.sealed_with() == {"second"}
        assert failures == [] and len(found) > 10
        assert all(one == (3, set(NAMES)) for one in found)

    encryption.write_text(encryption.read_text().splitlines()[0] + "\n")  # the old key goes
    with (
        started(package, redis_server.url, tmp_path / "home", **world.settings) as service,
        world.client(service, "made") as client,  # a key that was made over HTTP outlives restart and rotation
    ):
        assert {one.person for one in client.people()} == set(NAMES)
        assert client.identify(people.a2).candidates[0].similarity == pytest.approx(1, abs=1e-5)


def test_who_must_be_enrolled_again(
    world: World,
    package: ModelPackage,
    other_package: ModelPackage,
    people: People,
    redis_server: RedisServer,
    tmp_path: Path,
) -> None:
    world.run("new-key")
    (tmp_path / "key").write_text(world.keys["one"])
    with (
        started(package, redis_server.url, tmp_path / "home", **world.settings) as service,
        world.client(service, "one") as client,
    ):
        for name in NAMES:
            client.enroll(name, [people.a1, people.a2])
        assert {one.comparable for one in client.people()} == {2}
        asked = ("outdated", "--url", str(service.client.base_url), "--key-file", str(tmp_path / "key"))
        assert world.run(*asked)[0] == [{"people": 3, "outdated": 0}]
    with (
        started(other_package, redis_server.url, tmp_path / "home", **world.settings) as service,
        world.client(service, "one") as client,
    ):
        found = client.identify(people.a1)
        assert (found.people, found.templates_of_other_models) == (0, 6) and not found.candidates
        with pytest.raises(EolgulError) as caught:
            client.verify_person(people.a1, NAMES[0])
        assert (caught.value.code, caught.value.status) == ("model_mismatch", 409)
        client.enroll(NAMES[0], [people.a1])
        assert sorted((one.person, one.templates, one.comparable) for one in client.people()) == sorted(
            [(NAMES[0], 3, 1), (NAMES[1], 2, 0), (NAMES[2], 2, 0)]
        )
        asked = ("outdated", "--url", str(service.client.base_url), "--key-file", str(tmp_path / "key"))
        *listed, counts = world.run(*asked)[0]
        assert {one["person"] for one in listed} == set(NAMES[1:]) and counts == {"people": 3, "outdated": 2}
        assert client.identify(people.a1).candidates[0].person == NAMES[0]
        known = client.verify_person(people.a1, NAMES[0])
        assert (known.templates, known.templates_of_other_models) == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reseal", "--url", "redis://127.0.0.1:1/0"], "the gallery cannot be reached"),
        (["reseal", "--file", "nowhere"], "nowhere: cannot be read as a file of keys"),
        (["new-key", "--id", "a b"], "expected up to 64 letters"),
        (["new-key", "--id", "first"], "already has a key with the id first"),
    ],
)
def test_one_sentence_for_what_is_wrong(world: World, arguments: list[str], words: str) -> None:
    world.run("new-key", "--id", "first")
    before = (world.folder / "encryption").read_bytes()
    _, said = world.run(*arguments, status=2)
    assert words in said and "Traceback" not in said
    assert (world.folder / "encryption").read_bytes() == before
