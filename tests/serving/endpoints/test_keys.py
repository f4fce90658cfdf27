"""API keys made over HTTP: by an admin of the tenant, shown once, sealed, and revoked for every worker within seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from support.serving import KeyedService, People

from eolgul.client import Client, EolgulError
from eolgul.serving.access import stored_keys
from eolgul.serving.access.keys import ApiKeys


@pytest.fixture
def admin(keyed_service: KeyedService) -> Iterator[Client]:
    with Client(str(keyed_service.service.client.base_url), api_key=keyed_service.key(("admin",))) as made:
        yield made
        for key in made.api_keys().keys:
            if key.source == "http":
                made.revoke_api_key(key.id)


def refused(call: Callable[[], object]) -> tuple[str, int | None, str | None]:
    with pytest.raises(EolgulError) as caught:
        call()
    return caught.value.code, caught.value.status, caught.value.field


def test_a_key_is_made_used_and_revoked(admin: Client, keyed_service: KeyedService, people: People) -> None:
    made = admin.make_api_key(["detect", "embed"], note="door 3")
    assert made.entry.scopes == ("detect", "embed") and made.entry.tenant == "one" and made.entry.source == "http"
    assert made.entry.requests_per_minute == 10_000  # as the key that asked
    url = str(keyed_service.service.client.base_url)
    with Client(url, api_key=made.key) as door:
        assert door.detect(people.a1).faces
        assert refused(lambda: door.verify(people.a1, people.a2))[:2] == ("forbidden", 403)
        assert refused(door.api_keys)[:2] == ("forbidden", 403)
        listed = {key.id: key for key in admin.api_keys().keys}
        assert listed[made.entry.id] == made.entry
        assert made.key not in json.dumps([key.model_dump(mode="json") for key in listed.values()])
        revoked = admin.revoke_api_key(made.entry.id)
        assert revoked.revoked == made.entry and revoked.refused_within_s <= 5
        assert refused(lambda: door.detect(people.a1))[:2] == ("unauthorized", 401)
    assert refused(lambda: admin.revoke_api_key(made.entry.id))[:2] == ("key_not_found", 404)
    held = repr(redis.Redis(port=keyed_service.gallery.port).hgetall("eolgul:gallery:1:keys"))
    assert made.key.split("_")[2] not in held and "door 3" not in held
    log = [json.loads(line) for line in keyed_service.audit.read_text().splitlines()]
    mine = [(one["action"], one["outcome"]) for one in log if one.get("target") == made.entry.id]
    assert mine == [("key_new", "ok"), ("key_revoke", "ok")] and made.key not in keyed_service.audit.read_text()


def test_what_other_replicas_do_is_followed(
    admin: Client, keyed_service: KeyedService, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replica's keys come by Redis alone, and so does their end."""
    made = admin.make_api_key(["detect"])
    store, name = redis.Redis(port=keyed_service.gallery.port), "eolgul:gallery:1:keys"
    sealed = store.hget(name, made.entry.id)
    assert sealed is not None

    def status() -> int:
        headers = {"authorization": f"Bearer {made.key}"}
        return keyed_service.service.client.post("/v1/detect", files={"image": people.a1}, headers=headers).status_code

    for value, expected in ((None, 401), (sealed, 200), (b"damaged", 401), (sealed, 200)):
        store.hdel(name, made.entry.id) if value is None else store.hset(name, made.entry.id, value)
        start = time.monotonic()
        while status() != expected:
            assert time.monotonic() - start < stored_keys.WITHIN_S
            time.sleep(0.1)
    stranger = store.hset(name, "0123456789ab", sealed)  # an entry moved to another id opens nothing
    assert stranger == 1
    time.sleep(stored_keys.FOLLOW_S + 0.5)
    assert "0123456789ab" not in {key.id for key in admin.api_keys().keys}
    store.hdel(name, "0123456789ab")


def test_only_the_own_tenant_and_nothing_above_the_own_rights(admin: Client, keyed_service: KeyedService) -> None:
    in_file = {key.tenant for key in admin.api_keys().keys}
    assert in_file == {"one"}
    own = keyed_service.key(("admin",)).split("_")[1]
    assert refused(lambda: admin.revoke_api_key(own))[:2] == ("key_in_file", 409)
    assert refused(lambda: admin.revoke_api_key(keyed_service.keys["two"].split("_")[1]))[:2] == ("key_not_found", 404)
    assert refused(lambda: admin.make_api_key(["admin"]))[:2] == ("bad_request", 400)
    assert refused(lambda: admin.make_api_key([])) == ("bad_request", 400, "scopes")
    assert refused(lambda: admin.make_api_key(["fly"]))[:2] == ("bad_request", 400)
    assert refused(lambda: admin.make_api_key(["embed"], requests_per_minute=10_001)) == (
        "bad_request", 400, "requests_per_minute",
    )  # fmt: skip
    assert refused(lambda: admin.make_api_key(["embed"], note="x" * 201)) == ("bad_request", 400, "note")
    past = datetime.now(UTC) - timedelta(seconds=1)
    assert refused(lambda: admin.make_api_key(["embed"], expires=past)) == ("bad_request", 400, "expires")
    answer = keyed_service.service.client.post(
        "/v1/keys",
        headers={"authorization": f"Bearer {keyed_service.key(('admin',))}"},
        json={"scopes": ["embed"], "tenant": "two"},
    )
    assert (answer.status_code, answer.json()["field"]) == (400, "tenant")


def test_a_key_ends_when_it_says(admin: Client, keyed_service: KeyedService, people: People) -> None:
    made = admin.make_api_key(["detect"], expires=datetime.now(UTC) + timedelta(seconds=2), requests_per_minute=60)
    assert made.entry.requests_per_minute == 60
    with Client(str(keyed_service.service.client.base_url), api_key=made.key) as door:
        assert door.detect(people.a1).faces
        time.sleep(2.1)
        assert refused(lambda: door.detect(people.a1))[:2] == ("unauthorized", 401)


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/keys"), ("POST", "/v1/keys"), ("DELETE", "/v1/keys/x")])
def test_scope_and_key(keyed_service: KeyedService, method: str, path: str) -> None:
    call = keyed_service.service.client.request
    assert call(method, path).status_code == 401
    answer = keyed_service.call("one", method, path)  # every other scope
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_from_the_command_line(keyed_service: KeyedService, people: People, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from eolgul.cli.main import app

    (tmp_path / "admin").write_text(keyed_service.key(("admin",)))
    url = str(keyed_service.service.client.base_url)
    common = ["--url", url, "--key-file", str(tmp_path / "admin")]

    def run(*arguments: str, status: int = 0) -> Any:
        done = CliRunner().invoke(app, ["key", *arguments])
        assert done.exit_code == status, done.output
        return json.loads(done.stdout) if status == 0 else done.exception

    made = run("new", "--scope", "detect", "--note", "door", "--days", "1", *common)
    with Client(url, api_key=made["key"]) as door:
        assert door.detect(people.a1).faces
    assert made["id"] in {key["id"] for key in run("list", *common)["keys"]}
    assert run("revoke", made["id"], *common) == {"revoked": made["id"], "tenant": "one"}
    assert "--tenant with --url" in str(run("new", "--scope", "detect", "--tenant", "x", *common, status=1))
    assert "--file or --url" in str(run("list", status=1))


def test_a_tenant_has_a_hundred(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(stored_keys.MOST):
        admin.make_api_key(["detect"])
    assert refused(lambda: admin.make_api_key(["detect"]))[:2] == ("keys_full", 409)


def test_keys_that_are_not_read_yet_are_not_said_to_be_wrong() -> None:
    from eolgul.serving.problems import RejectionError

    keys = ApiKeys(Path("keys.json"), {})
    keys.stored = None
    for header, code in {
        f"Bearer eolgul_abc_{'x' * 43}": "gallery_unavailable",
        "Bearer nonsense": "unauthorized",
        "": "unauthorized",
    }.items():
        with pytest.raises(RejectionError) as caught:
            keys.authenticate(header)
        assert caught.value.code == code


def test_without_a_gallery_or_keys_there_is_no_admin(service: object) -> None:
    from support.serving import Service

    assert isinstance(service, Service)
    answer = service.client.get("/v1/keys")  # authentication is off: everybody would be an admin
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
