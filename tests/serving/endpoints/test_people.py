"""Rename, metadata and search: over HTTP and by the client; sealed, bounded, the tenant's own, and gone with the person."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from support.serving import KeyedService, People

from eolgul.client import Client, EolgulError

SECRET = "Hanbit tower, floor 12"


@pytest.fixture
def client(keyed_service: KeyedService) -> Iterator[Client]:
    with Client(str(keyed_service.service.client.base_url), api_key=keyed_service.keys["five"]) as made:
        for person in made.people():
            made.delete_person(person.person)
        yield made


def refused(call: Callable[[], object]) -> tuple[str, int | None, str | None]:
    with pytest.raises(EolgulError) as caught:
        call()
    return caught.value.code, caught.value.status, caught.value.field


def everything(keyed_service: KeyedService) -> bytes:
    """All that the gallery's Redis holds."""
    store = redis.Redis(port=keyed_service.gallery.port)
    parts: list[bytes] = []
    read: dict[bytes, Callable[[bytes], object]] = {
        b"hash": store.hgetall,
        b"string": store.get,
        b"zset": lambda name: store.zrange(name, 0, -1),
        b"stream": store.xrange,
    }
    for name in store.scan_iter("*"):
        kind = store.type(name)
        assert isinstance(kind, bytes)
        parts += [name, repr(read[kind](name)).encode()]
    return b"".join(parts)


def test_a_renamed_person_is_the_same_person(client: Client, keyed_service: KeyedService, people: People) -> None:
    client.enroll("Kim", [people.a1, people.a2])
    client.enroll("Lee", [people.b1])
    client.set_metadata("Kim", {"badge": "7"})
    before = client.person("Kim")
    renamed = client.rename_person("Kim", "Kim Min-jun (김민준)")
    assert renamed.person == "Kim Min-jun (김민준)" and renamed.metadata == {"badge": "7"}
    assert (renamed.templates, renamed.created_at) == (before.templates, before.created_at)
    assert client.person(renamed.person) == renamed
    assert refused(lambda: client.person("Kim")) == ("person_not_found", 404, None)
    found = client.identify(people.a1)
    assert found.candidates[0].person == renamed.person and found.people == 2
    assert sorted(one.person for one in client.people()) == sorted([renamed.person, "Lee"])
    assert client.enroll(renamed.person, [people.a1]).added == 0  # its templates are known under the new name
    assert refused(lambda: client.rename_person("Lee", renamed.person)) == ("person_exists", 409, "person")
    assert refused(lambda: client.rename_person("nobody", "Park")) == ("person_not_found", 404, None)
    assert refused(lambda: client.rename_person("Lee", "a/b")) == ("bad_request", 400, "person")
    assert client.rename_person("Lee", "Lee").person == "Lee"
    log = [json.loads(line) for line in keyed_service.audit.read_text().splitlines()]
    first = [one for one in log if one["action"] == "rename" and one["tenant"] == "five"]
    assert (first[0]["outcome"], first[0]["templates"]) == ("ok", 2)
    enrolled = [one for one in log if one["action"] == "enroll" and one["tenant"] == "five"]
    assert first[0]["person"] == enrolled[-3]["person"] and first[0]["target"] == enrolled[-1]["person"]
    assert [one["outcome"] for one in first] == ["ok", "person_exists", "person_not_found", "bad_request", "ok"]
    assert client.delete_person(renamed.person).templates == 2
    assert client.delete_person("Lee").templates == 1
    assert client.identify(people.a1).people == 0


def test_metadata_is_kept_sealed_exported_and_erased(
    client: Client, keyed_service: KeyedService, people: People
) -> None:
    client.enroll("Kim", [people.a1, people.a2])
    assert client.person("Kim").metadata == {} and client.person("Kim").created_at
    kept = {"place": SECRET, "사번": "0042"}
    assert client.set_metadata("Kim", kept).metadata == kept
    assert client.person("Kim").metadata == kept and [one.metadata for one in client.people()] == [kept]
    assert [one["metadata"] for one in client.export()] == [kept, kept]
    first = client.person("Kim").templates[0].template
    client.delete_template("Kim", first)
    client.enroll("Kim", [people.a1])
    assert client.person("Kim").metadata == kept  # what changes the templates leaves it
    assert "metadata" not in client.identify(people.a1).candidates[0].model_dump()  # listing needs `gallery`
    assert SECRET.encode() not in everything(keyed_service) and SECRET not in keyed_service.audit.read_text()
    assert client.set_metadata("Kim", {}).metadata == {}
    client.set_metadata("Kim", kept)
    sealed = redis.Redis(port=keyed_service.gallery.port)
    [name] = sealed.scan_iter("eolgul:gallery:1:{five}:person:*")
    held = sealed.hget(name, "id")
    client.delete_person("Kim")
    assert held is not None and repr(held).encode() not in everything(keyed_service)
    client.enroll("Kim", [people.a1])
    assert client.person("Kim").metadata == {}
    client.delete_person("Kim")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({}, None),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
        ({"metadata": {"": "x"}}, "metadata"),
        ({"metadata": {"x" * 65: "x"}}, "metadata"),
        ({"metadata": {"x": "x" * 1025}}, "metadata"),
        ({"metadata": {str(number): "가" * 400 for number in range(4)}}, "metadata"),
        ({"metadata": {"x": 5}}, "metadata"),
        ({"metadata": {"x": {"y": "z"}}}, "metadata"),
        ({"metadata": {"x": "\ud800"}}, "metadata"),
        ({"metadata": []}, "metadata"),
        ({"person": "x" * 129}, "person"),
        ({"person": ""}, "person"),
        ({"persno": "x"}, "persno"),
        ([], None),
    ],
)
def test_what_a_change_may_not_be(keyed_service: KeyedService, change: Any, field: str | None) -> None:
    answer = keyed_service.call("five", "PATCH", "/v1/people/nobody", content=json.dumps(change))
    assert (answer.status_code, answer.json()["code"], answer.json().get("field")) == (400, "bad_request", field)
    form = keyed_service.call("five", "PATCH", "/v1/people/nobody", data={"person": "x"})
    assert form.json()["code"] == "unsupported_format"
    large = keyed_service.call("five", "PATCH", "/v1/people/nobody", content=b" " * 70_000)
    assert large.json()["code"] == "too_large"


def test_search(client: Client, keyed_service: KeyedService, people: People) -> None:
    names = ["Ann Lee", "Anna Kim", "Bob LEE", "José", "김민준", "김서연", "straße 5"]
    for name in names:
        client.enroll(name, [people.a1])

    def found(**query: str) -> list[str]:
        return sorted(one.person for one in client.people(**query))

    assert found(search="lee") == ["Ann Lee", "Bob LEE"] and found(prefix="an") == ["Ann Lee", "Anna Kim"]
    assert found(search="JOSE\u0301") == ["José"] and found(prefix="김") == ["김민준", "김서연"]
    assert found(search="STRASSE") == ["straße 5"] and found(search="n", prefix="b") == []
    assert found(search="lee", prefix="B") == ["Bob LEE"] and found() == sorted(names)
    seen, after = [], ""
    while True:
        page = keyed_service.call("five", "GET", f"/v1/people?search=n&limit=1&after={after}").json()
        assert len(page["people"]) <= 1 and page["total"] == len(names)
        seen += [one["person"] for one in page["people"]]
        if (after := page["next"]) is None:
            break
    assert sorted(seen) == ["Ann Lee", "Anna Kim"]
    assert keyed_service.call("six", "GET", "/v1/people?search=n").json()["people"] == []  # another tenant's


@pytest.mark.parametrize(
    ("scopes", "code"),
    [(("enroll",), "forbidden"), (("gallery",), "forbidden"), (("enroll", "gallery"), "person_not_found")],
)
def test_scopes(keyed_service: KeyedService, scopes: tuple[str, ...], code: str) -> None:
    headers = {"authorization": f"Bearer {keyed_service.key(scopes)}"}
    answer = keyed_service.service.client.patch("/v1/people/x", headers=headers, json={"person": "y"})
    assert answer.json()["code"] == code


def test_a_person_of_another_tenant_is_not_changed(keyed_service: KeyedService, people: People, client: Client) -> None:
    client.enroll("Kim", [people.a1])
    for change in ({"person": "x"}, {"metadata": {"a": "b"}}):
        answer = keyed_service.call("six", "PATCH", "/v1/people/Kim", json=change)
        assert answer.json()["code"] == "person_not_found"
    assert client.person("Kim").metadata == {}
    client.delete_person("Kim")
