"""API keys: only the right one opens, and every wrong one is refused alike; the file changes under a running service."""

from __future__ import annotations

import hashlib
import json
import logging
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eolgul.cli.main import app
from eolgul.errors import InputError
from eolgul.serving.access import keys
from eolgul.serving.access.keys import SCOPES, ApiKeys, Caller, new_key, read_keys, revoke_key
from eolgul.serving.problems import RejectionError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_REREAD_S", 0.0)


def refusal(ring: ApiKeys, header: str | None) -> str:
    with pytest.raises(RejectionError) as caught:
        ring.authenticate(header)
    assert caught.value.code == "unauthorized"
    return str(caught.value)


def test_a_key_opens_what_its_scopes_say(file: Path) -> None:
    text, entry = new_key(file, tenant="acme", scopes=["embed", "verify"], requests_per_minute=7)
    caller = ApiKeys.read(file).authenticate(f"Bearer {text}")
    assert caller == Caller("acme", entry.id, frozenset({"verify", "embed"}), 7)
    caller.require("verify", "embed")
    with pytest.raises(RejectionError, match="lacks the scope gallery") as caught:
        caller.require("embed", "gallery")
    assert caught.value.code == "forbidden"


def test_the_file_is_private_and_holds_no_key(file: Path) -> None:
    text, entry = new_key(file, tenant="acme", scopes=SCOPES)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert text.split("_", 2)[2] not in file.read_text()
    assert entry.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert len(text.split("_", 2)[2]) == 43  # 32 bytes in base64url
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_every_wrong_header_is_refused_in_the_same_words(file: Path) -> None:
    text, _ = new_key(file, tenant="acme", scopes=["verify"])
    ended, _ = new_key(file, tenant="acme", scopes=["verify"], expires=datetime.now(UTC) - timedelta(seconds=1))
    other, _ = new_key(file, tenant="acme", scopes=["verify"])
    gone, entry = new_key(file, tenant="acme", scopes=["verify"])
    revoke_key(file, entry.id)
    mixed = "_".join([*text.split("_", 2)[:2], other.split("_", 2)[2]])
    ring = ApiKeys.read(file)
    wrong = [None, "", "Bearer", "Bearer ", text, f"Basic {text}", f"Bearer {text}x", f"Bearer {text[:-1]}", "Bearer é"]
    wrong += [f"Bearer {one}" for one in (ended, gone, mixed, text.swapcase(), "\ud800", text + "\n" + text)]
    assert len({refusal(ring, header) for header in wrong}) == 1
    assert ring.authenticate(f"bearer  {text} ").tenant == "acme"


def test_several_keys_of_a_tenant_work_until_the_old_one_is_revoked(file: Path, at_once: None) -> None:
    old, entry = new_key(file, tenant="acme", scopes=["verify"])
    ring = ApiKeys.read(file)
    new, _ = new_key(file, tenant="acme", scopes=["verify"])
    assert {ring.authenticate(f"Bearer {key}").tenant for key in (old, new)} == {"acme"}
    revoke_key(file, entry.id)
    refusal(ring, f"Bearer {old}")
    assert ring.authenticate(f"Bearer {new}").tenant == "acme"


def test_a_broken_file_keeps_the_keys_and_is_told_once(
    file: Path, at_once: None, caplog: pytest.LogCaptureFixture
) -> None:
    text, _ = new_key(file, tenant="acme", scopes=["verify"])
    whole = file.read_bytes()
    ring = ApiKeys.read(file)
    file.write_bytes(whole[:-20])
    with caplog.at_level(logging.ERROR, "eolgul.keys"):
        for _ in range(3):
            assert ring.authenticate(f"Bearer {text}").tenant == "acme"
        assert len(caplog.records) == 1
        file.unlink()
        for _ in range(3):
            assert ring.authenticate(f"Bearer {text}").tenant == "acme"
        assert len(caplog.records) == 2
    file.write_text('{"format": 1, "keys": []}')
    refusal(ring, f"Bearer {text}")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"sha256": "short"}, "keys[0].sha256"),
        ({"scopes": ["root"]}, "keys[0].scopes[0]"),
        ({"scopes": []}, "keys[0].scopes"),
        ({"expires": "2030-01-01T00:00:00"}, "keys[0].expires"),
        ({"tenant": "a:b"}, "keys[0].tenant"),
        ({"requests_per_minute": 0}, "keys[0].requests_per_minute"),
        ({"secret": "x"}, "keys[0].secret"),
    ],
)
def test_a_malformed_entry_is_named_by_place(file: Path, change: dict[str, object], place: str) -> None:
    new_key(file, tenant="acme", scopes=["verify"])
    value = json.loads(file.read_text())
    value["keys"][0] |= change
    file.write_text(json.dumps(value))
    with pytest.raises(InputError) as caught:
        ApiKeys.read(file)
    assert str(caught.value).startswith(f"{file}: {place}: ") and "\n" not in str(caught.value)


def test_an_id_that_is_there_twice_is_refused(file: Path) -> None:
    new_key(file, tenant="acme", scopes=["verify"])
    value = json.loads(file.read_text())
    value["keys"] *= 2
    file.write_text(json.dumps(value))
    with pytest.raises(InputError, match="appears 2 times"):
        read_keys(file)


def test_keys_made_at_once_are_all_kept(file: Path) -> None:
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.append(new_key(file, tenant="acme", scopes=["verify"])[1].id))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == sorted(key.id for key in read_keys(file)) and len(made) == 12


def test_what_cannot_be_made_or_revoked(file: Path) -> None:
    with pytest.raises(InputError, match="scope 'root': expected one of verify"):
        new_key(file, tenant="acme", scopes=["root"])
    with pytest.raises(InputError, match="tenant of the new key"):
        new_key(file, tenant="a b", scopes=["verify"])
    with pytest.raises(InputError, match="No such file"):
        ApiKeys.read(file)
    new_key(file, tenant="acme", scopes=["verify"])
    before = file.read_bytes()
    with pytest.raises(InputError, match="no API key has the id none"):
        revoke_key(file, "none")
    assert file.read_bytes() == before


def test_a_ticket_reads_the_report_and_nothing_else(file: Path, at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    _, entry = new_key(file, tenant="acme", scopes=SCOPES)
    _, other = new_key(file, tenant="rival", scopes=SCOPES)
    ring = ApiKeys.read(file)
    ticket = ring.report_ticket(entry.id)
    assert ring.check_ticket(ticket) == Caller("acme", entry.id, frozenset())
    name, expires, mac = ticket.split(".")
    forged = [
        f"{other.id}.{expires}.{mac}",
        f"{name}.{int(expires) + 1}.{mac}",
        f"{name}.{expires}.{'0' * 64}",
        "",
        None,
    ]
    for one in forged:
        with pytest.raises(RejectionError) as caught:
            ring.check_ticket(one)
        assert caught.value.code == "unauthorized"
    now = keys.time.time()
    monkeypatch.setattr(keys.time, "time", lambda: now + keys.TICKET_S + 1)
    with pytest.raises(RejectionError):
        ring.check_ticket(ticket)
    monkeypatch.undo()
    monkeypatch.setattr(keys, "_REREAD_S", 0.0)
    revoke_key(file, entry.id)
    with pytest.raises(RejectionError):
        ring.check_ticket(ticket)


def test_open_to_all_lets_everyone_do_everything() -> None:
    ring = ApiKeys.open_to_all()
    caller = ring.authenticate(None)
    caller.require(*SCOPES)
    assert ring.open and ring.check_ticket(ring.report_ticket(caller.key_id)) == caller


@pytest.mark.parametrize(
    "words", [("new", "--tenant", "acme", "--scope", "verify"), ("list",), ("revoke", "0123456789ab")]
)
def test_the_key_of_a_caller_is_only_for_a_service(file: Path, words: tuple[str, ...]) -> None:
    before = file.read_bytes() if file.exists() else None
    with pytest.raises(InputError, match="--key-file me: is only for --url"):
        CliRunner().invoke(app, ["key", *words, "--file", str(file), "--key-file", "me"], catch_exceptions=False)
    assert (file.read_bytes() if file.exists() else None) == before


def test_the_command_makes_lists_and_revokes(file: Path) -> None:
    runner = CliRunner()

    def eolgul(*arguments: str) -> dict[str, Any]:
        result = runner.invoke(app, ["key", *arguments, "--file", str(file)], catch_exceptions=False)
        facts: dict[str, Any] = json.loads(result.stdout)
        return facts

    made = eolgul("new", "--tenant", "acme", "--scope", "verify", "--scope", "gallery", "--days", "1")
    assert ApiKeys.read(file).authenticate(f"Bearer {made['key']}").scopes == {"verify", "gallery"}
    [listed] = eolgul("list")["keys"]
    assert listed["id"] == made["id"] and not {"key", "sha256"} & listed.keys()
    assert eolgul("revoke", made["id"]) == {"revoked": made["id"], "tenant": "acme"}
    assert eolgul("list") == {"keys": []}
    with pytest.raises(InputError, match="no API key has the id"):
        eolgul("revoke", made["id"])
