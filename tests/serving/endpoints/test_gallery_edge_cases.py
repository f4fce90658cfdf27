"""Edge cases of the gallery's endpoints: names, pages, erasures with and without a cache, races, and the audit log."""

from __future__ import annotations

import json
import os
import signal
import threading

import httpx
import pytest
import redis
from support.serving import KeyedService, People

from eolgul.client import Client
from eolgul.errors import InputError


def test_one_name_however_it_was_typed(keyed_service: KeyedService, people: People) -> None:
    decomposed, composed = "Jose\u0301", "Jos\u00e9"
    assert keyed_service.enroll("two", decomposed, people.a1).json()["person"] == composed
    assert keyed_service.call("two", "GET", f"/v1/people/{decomposed}").json()["person"] == composed
    assert keyed_service.call("two", "DELETE", f"/v1/people/{decomposed}").json()["person"] == composed


def test_the_last_page_says_that_it_is_the_last(keyed_service: KeyedService, people: People) -> None:
    for person in "abcd":
        keyed_service.enroll("three", person, people.a1)
    first = keyed_service.call("three", "GET", "/v1/people?limit=2").json()
    last = keyed_service.call("three", "GET", f"/v1/people?limit=2&after={first['next']}").json()
    assert sorted(one["person"] for page in (first, last) for one in page["people"]) == list("abcd")
    assert last["next"] is None


def test_the_client_erases_no_person_in_place_of_a_template(keyed_service: KeyedService, people: People) -> None:
    keyed_service.enroll("four", "X", people.a1)
    with Client(str(keyed_service.service.client.base_url), api_key=keyed_service.keys["four"]) as client:
        for template in ("..", ".", "", "../", "x/../.."):
            with pytest.raises(InputError, match="is not an id"):
                client.delete_template("X", template)
        for person in ("..", "", "X/templates/y"):
            with pytest.raises(InputError, match="is not an id"):
                client.delete_person(person)
        assert [one.person for one in client.people()] == ["X"]


def test_an_erasure_says_whether_the_cache_forgot(keyed_service: KeyedService, people: People) -> None:
    def cached() -> bool:
        known: list[bool] = keyed_service.call(
            "five", "POST", "/v1/verify", files={"image1": people.a1, "image2": people.a1}
        ).json()["cached"]
        return all(known)

    keyed_service.enroll("five", "X", people.a1)
    cached()
    assert keyed_service.call("five", "DELETE", "/v1/people/X").json()["cache_cleared"] is True
    assert not cached()

    keyed_service.enroll("five", "X", people.a1)
    assert cached()
    assert keyed_service.cache.process
    os.kill(keyed_service.cache.process.pid, signal.SIGSTOP)
    try:
        erased = keyed_service.call("five", "DELETE", "/v1/people/X")
    finally:
        os.kill(keyed_service.cache.process.pid, signal.SIGCONT)
    assert (erased.status_code, erased.json()["cache_cleared"]) == (200, False)


def test_an_enrolment_is_one_though_another_replica_erases_at_once(keyed_service: KeyedService, people: People) -> None:
    store = redis.Redis.from_url(keyed_service.gallery.url)
    ended = threading.Event()

    def erase() -> None:
        while not ended.is_set():
            for name in store.keys("eolgul:gallery:1:{one}:person:*"):
                store.delete(name, "eolgul:gallery:1:{one}:people")

    replica = threading.Thread(target=erase)
    replica.start()
    try:
        answers = [keyed_service.enroll("one", "race", people.a1) for _ in range(30)]
    finally:
        ended.set()
        replica.join()
    assert {(one.status_code, one.json().get("templates_total")) for one in answers} == {(200, 1)}


def test_the_audit_log_says_how_much_of_an_export_left(keyed_service: KeyedService, people: People) -> None:
    for person in ("x", "y"):
        keyed_service.enroll("six", person, people.a1)
    assert len(keyed_service.call("six", "GET", "/v1/export").text.splitlines()) == 2
    store = redis.Redis.from_url(keyed_service.gallery.url)
    for name in store.scan_iter("eolgul:gallery:1:{six}:person:*"):
        damaged = sorted(store.hkeys(name))[0]  # a template: its id is hex digits, and sorts before `id`
        store.hset(name, damaged, b"damaged")
    with pytest.raises(httpx.RemoteProtocolError):
        keyed_service.call("six", "GET", "/v1/export")
    ends = [json.loads(line) for line in keyed_service.audit.read_text().splitlines() if "export_end" in line]
    assert [(one["tenant"], one["templates"], one["outcome"]) for one in ends[-2:]] == [
        ("six", 2, "ok"),
        ("six", 0, "cut"),
    ]
