"""The gallery and the keys over HTTP: a real service with authentication, a real Redis, two tenants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from support.serving import People, RedisServer, Service, serve

from eolgul.model.package import ModelPackage
from eolgul.serving.access.keys import SCOPES, new_key
from eolgul.serving.keyring import new_line

PERSON = "Hong Gil-dong"


class Guarded:
    """A service that asks for keys: `as_(name)` calls with one of them."""

    def __init__(self, service: Service, keys: dict[str, str], audit: Path) -> None:
        self.service, self.keys, self.audit = service, keys, audit

    def call(self, name: str | None, method: str, path: str, **options: object) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.keys[name]}"} if name else {}
        return self.service.client.request(method, path, headers=headers, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def guarded(
    package: ModelPackage, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    file = folder / "keys.json"
    keys = {
        "one": new_key(file, tenant="one", scopes=SCOPES)[0],
        "two": new_key(file, tenant="two", scopes=SCOPES)[0],
        "verifier": new_key(file, tenant="one", scopes=("verify",))[0],
        "lister": new_key(file, tenant="one", scopes=("gallery",))[0],
        "slow": new_key(file, tenant="one", scopes=("detect",), requests_per_minute=3)[0],
    }
    (folder / "encryption").write_text(new_line() + "\n")
    settings = {
        "auth": "on",
        "api_keys_file": file,
        "encryption_keys_file": folder / "encryption",
        "gallery_url": redis_server.url.removesuffix("/0") + "/7",  # other tests' galleries have other keys
        "audit_log": folder / "audit.jsonl",
        "redis_timeout_s": 0.4,
        "redis_pause_s": 0.3,
        "gallery_timeout_s": 2,
    }
    with (folder / "service.log").open("wb") as log:
        for service in serve(package, redis_server.url, tmp_path_factory.mktemp("bentoml"), output=log, **settings):
            yield Guarded(service, keys, folder / "audit.jsonl")


def test_no_key_no_answer(guarded: Guarded, people: People) -> None:
    files = {"image": people.a1}
    for headers in ({}, {"authorization": "Bearer eolgul_nobody_" + "x" * 43}, {"authorization": "Basic eDp5"}):
        refusal = guarded.service.client.post("/v1/detect", files=files, headers=headers)
        assert (refusal.status_code, refusal.json()["code"]) == (401, "unauthorized")
        assert refusal.headers["www-authenticate"].startswith("Bearer")
    for path in ("/v1/models/current", "/ui/report.html", "/v1/people", "/v1/export"):
        assert guarded.service.client.get(path).status_code == 401, path
    for path in ("/livez", "/readyz", "/ui/", "/openapi.json"):
        assert guarded.service.client.get(path).status_code == 200, path


def test_a_key_does_what_its_scopes_say(guarded: Guarded, people: People) -> None:
    pair = {"image1": people.a1, "image2": people.a2}
    assert guarded.call("verifier", "POST", "/v1/verify", files=pair).status_code == 200
    refusals = [
        guarded.call("verifier", "POST", "/v1/embed", files={"image": people.a1}),
        guarded.call("lister", "POST", "/v1/verify", files=pair),
        guarded.call("lister", "GET", "/v1/export"),  # has gallery, lacks embed: no embedding leaves
        guarded.call("lister", "DELETE", "/v1/people/x"),
    ]
    assert [(one.status_code, one.json()["code"]) for one in refusals] == [(403, "forbidden")] * 4


def test_the_report_opens_with_the_cookie_that_a_key_brings(guarded: Guarded) -> None:
    answer = guarded.call("verifier", "GET", "/ui/ticket")
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    assert "path" not in cookie.lower()  # the browser takes the folder of the address that it knows, prefix included
    assert guarded.service.client.get("/ui/ticket").status_code == 401
    ticket = cookie.partition(";")[0]
    client = httpx.Client(base_url=guarded.service.client.base_url)
    assert client.get("/ui/report.html", headers={"cookie": ticket}).status_code == 200
    assert client.get("/ui/report.html", headers={"cookie": ticket + "0"}).status_code == 401
    assert client.post("/v1/detect", headers={"cookie": ticket}).status_code == 401


def test_too_often(guarded: Guarded, people: People) -> None:
    answers = [guarded.call("slow", "POST", "/v1/detect", files={"image": people.a1}) for _ in range(4)]
    assert [one.status_code for one in answers] == [200, 200, 200, 429]
    assert [one.headers["ratelimit-remaining"] for one in answers[:3]] == ["2", "1", "0"]
    assert answers[3].json()["code"] == "rate_limited" and int(answers[3].headers["retry-after"]) >= 1


def test_enroll_identify_export_erase(guarded: Guarded, people: People, redis_server: RedisServer) -> None:
    enrolled = guarded.call(
        "one", "POST", "/v1/enroll", data={"person": PERSON}, files=[("images", people.a1), ("images", people.a2)]
    )
    assert enrolled.status_code == 200, enrolled.text
    assert (enrolled.json()["added"], enrolled.json()["templates_total"]) == (2, 2)
    guarded.call("one", "POST", "/v1/enroll", data={"person": "someone else"}, files={"images": people.b1})
    found = guarded.call("one", "POST", "/v1/identify?k=1", files={"image": people.a1}).json()
    assert found["candidates"][0]["person"] == PERSON and found["people"] == 2
    assert found["candidates"][0]["verdict"] == "same"
    assert guarded.call("two", "POST", "/v1/identify", files={"image": people.a1}).json()["candidates"] == []
    listed = guarded.call("lister", "GET", "/v1/people").json()
    assert {one["person"]: one["templates"] for one in listed["people"]} == {PERSON: 2, "someone else": 1}
    assert len(guarded.call("lister", "GET", f"/v1/people/{PERSON}").json()["templates"]) == 2
    lines = [json.loads(line) for line in guarded.call("one", "GET", "/v1/export").text.splitlines()]
    embedded = guarded.call("one", "POST", "/v1/embed", files={"image": people.a1}).json()["embedding"]
    mine = [line["embedding"] for line in lines if line["person"] == PERSON]
    assert len(mine) == 2 and max(float(np.dot(one, embedded)) for one in mine) == pytest.approx(1, abs=1e-5)

    kept = _cached(redis_server)
    guarded.call("one", "POST", "/v1/verify", files={"image1": people.a1, "image2": people.a2})  # both cached now
    assert _cached(redis_server) >= kept
    erased = guarded.call("one", "DELETE", f"/v1/people/{PERSON}")
    assert (erased.status_code, erased.json()["templates"]) == (200, 2)
    assert guarded.call("one", "POST", "/v1/identify", files={"image": people.b1}).json()["people"] == 1
    assert guarded.call("one", "DELETE", f"/v1/people/{PERSON}").status_code == 404
    assert guarded.call("lister", "GET", f"/v1/people/{PERSON}").json()["code"] == "person_not_found"
    again = guarded.call("one", "POST", "/v1/verify", files={"image1": people.a1, "image2": people.a2}).json()
    assert again["cached"] == [False, False]  # erasure took what the cache kept of the person's images
    log = guarded.audit.read_text()
    assert {json.loads(line)["action"] for line in log.splitlines()} == {"enroll", "export", "export_end", "delete"}
    assert PERSON not in log and "Hong" not in log
    written = guarded.audit.with_name("service.log").read_text()
    assert "DELETE /v1/people/{person} 200" in written and "Hong" not in written


def test_nobody_is_enrolled_by_a_bad_request(guarded: Guarded, people: People) -> None:
    bad = [
        ({"person": "x"}, [("images", people.b1), ("images", b"no picture")], 422, "not_an_image"),
        ({}, [("images", people.b1)], 400, "missing_field"),
        ({"person": "x" * 200}, [("images", people.b1)], 400, "bad_request"),
        ({"person": "a/b"}, [("images", people.b1)], 400, "bad_request"),  # no address could erase it
        ({"person": ".."}, [("images", people.b1)], 400, "bad_request"),
        ({"person": "x"}, [("images", people.b1)] * 11, 413, "too_large"),
    ]
    for data, files, status, code in bad:
        refusal = guarded.call("two", "POST", "/v1/enroll", data=data, files=files)
        assert (refusal.status_code, refusal.json()["code"]) == (status, code), refusal.text
    assert guarded.call("two", "GET", "/v1/people").json()["total"] == 0


def _cached(server: RedisServer) -> int:
    from redis import Redis

    return len(list(Redis(port=server.port).scan_iter("eolgul:embedding:*")))
