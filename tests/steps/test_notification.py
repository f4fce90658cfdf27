"""The report of a run's end: what is sent, and that a webhook which does not work is one sentence within the limit."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.components import run_component
from support.webhook import Webhook, webhook

from eolgul.components.promote.notify import notify
from eolgul.errors import InputError
from eolgul.steps import notification, outcome
from eolgul.steps.store import Job, Store


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    for name in ("TOKEN", "KEY"):
        monkeypatch.delenv(f"EOLGUL_WEBHOOK_{name}", raising=False)
    monkeypatch.setattr(notification, "_PAUSE", 0.01)
    with webhook() as state:
        monkeypatch.setenv("EOLGUL_WEBHOOK_URL", state.address)
        yield state


def test_a_good_end(server: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EOLGUL_WEBHOOK_TOKEN", "the-token")
    monkeypatch.setenv("EOLGUL_WEBHOOK_KEY", "the-key")
    outcome.keep_result(str(tmp_path), "r1", {"digest": "ab" * 32, "promoted": True, "reason": "better", "other": 1})
    said = notification.report("retrain", str(tmp_path), "r1", "COMPLETE")
    assert said == "the outcome was sent to 127.0.0.1 (204)"
    (sent,) = server.messages
    assert sent.pop("time") and sent.pop("version")
    assert sent == {
        "pipeline": "retrain", "run_id": "r1", "state": "SUCCEEDED", "task": None, "error": None, "model": "ab" * 32,
        "promoted": True, "reason": "better",
    }  # fmt: skip
    (headers,) = server.headers
    assert headers["authorization"] == "Bearer the-token" and headers["content-type"] == "application/json"
    wanted = hmac.new(b"the-key", server.bodies[0], hashlib.sha256).hexdigest()
    assert headers["x-eolgul-signature-256"] == f"sha256={wanted}"


def test_a_bad_end_names_the_task_and_its_sentence(server: Webhook, tmp_path: Path) -> None:
    with pytest.raises(InputError), outcome.told(str(tmp_path), "r1", "check"):
        raise InputError("s3://nope: NoSuchBucket")
    for state in ("FAILED", "RUNNING"):  # KFP before 2.17 says so of a group that has ended
        notification.report("promote", str(tmp_path), "r1", state)
    for sent in server.messages:
        assert (sent["state"], sent["task"], sent["error"]) == ("FAILED", "check", "s3://nope: NoSuchBucket")
        assert sent["model"] is None and "authorization" not in server.headers[0]
    notification.report("promote", str(tmp_path), "another", "FAILED", "exit code 137\nmore")
    assert server.messages[-1]["error"] == "exit code 137" and server.messages[-1]["task"] is None
    notification.report("promote", str(tmp_path), "another", "RUNNING")
    assert server.messages[-1]["state"] == "UNKNOWN"


def test_a_task_that_goes_well_after_all_is_no_failure(tmp_path: Path) -> None:
    store, job = Store(str(tmp_path), "r1"), Job("extract", 1, "kface", {}, [])

    def broken(out: str) -> dict[str, Any]:
        raise ValueError("a library's error")

    with pytest.raises(ValueError):
        store.obtain(job, broken)
    found = outcome.read_outcome(str(tmp_path), "r1")
    assert (found.task, found.error) == ("extract kface", "ValueError: a library's error")
    with outcome.told(str(tmp_path), "r1", "extract kface"):
        pass
    assert outcome.read_outcome(str(tmp_path), "r1") == outcome.Outcome("", "", {})


@pytest.mark.parametrize(
    ("answers", "says", "requests"),
    [
        ([500, 503, 200], "the outcome was sent to 127.0.0.1 (200)", 3),
        (["reset", 200], "the outcome was sent to 127.0.0.1 (200)", 2),
        ([500], "the notification was not sent: 127.0.0.1 answers 500", 3),
        ([404], "the notification was not sent: 127.0.0.1 answers 404", 1),
        ([302], "the notification was not sent: 127.0.0.1 redirects (302), expected the webhook itself", 1),
        (["reset"], "the notification was not sent: 127.0.0.1: ConnectionError", 3),
    ],
)
def test_a_webhook_that_fails(server: Webhook, tmp_path: Path, answers: list[Any], says: str, requests: int) -> None:
    server.answers = answers
    assert notification.report("promote", str(tmp_path), "r1", "FAILED") == says
    assert len(server.bodies) == requests


@pytest.mark.parametrize("answer", ["hang", "drip"])
def test_a_webhook_that_hangs_is_given_up(server: Webhook, tmp_path: Path, answer: str) -> None:
    server.answers = [answer]
    begun = time.monotonic()
    said = notification.report("promote", str(tmp_path), "r1", "FAILED", limit=0.6)
    assert time.monotonic() - begun < 5
    assert said.startswith("the notification was not sent: ") and "hush-hush" not in said


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "no notification: EOLGUL_WEBHOOK_URL is not set"),
        ("hooks.example/hush-hush", "EOLGUL_WEBHOOK_URL: expected an address that begins with https:// or http://"),
        ("file:///hush-hush", "EOLGUL_WEBHOOK_URL: expected an address that begins with https:// or http://"),
        ("http://127.0.0.1:1/hush-hush", "the notification was not sent: 127.0.0.1: ConnectionError"),
        ("http://[/hush-hush", "the notification was not sent: ValueError"),
    ],
)
def test_an_address_that_is_none(
    server: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, says: str
) -> None:
    monkeypatch.setenv("EOLGUL_WEBHOOK_URL", url)
    said = notification.report("promote", str(tmp_path), "r1", "FAILED")
    assert said.endswith(says) and "hush-hush" not in said


def test_a_workspace_that_cannot_be_read_is_reported_too(
    server: Webhook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: str) -> outcome.Outcome:
        raise InputError("s3://eolgul: access denied")

    monkeypatch.setattr(notification, "read_outcome", refuse)
    notification.report("promote", str(tmp_path), "r1", "FAILED")
    assert server.messages[0]["error"] == "the workspace cannot be read: s3://eolgul: access denied"


def test_the_component(server: Webhook, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what KFP's back end gives (`resolve.go`): no error, and the state of its metadata store."""
    status = {"state": "FAILED", "pipelineJobResourceName": "run", "pipelineTaskName": "exit-handler-1", "error": {}}
    run_component(notify, tmp_path / "out", pipeline="roll-back", workspace=str(tmp_path), run="r1", status=status)
    assert server.messages[0]["state"] == "FAILED"
    assert "the outcome was sent to 127.0.0.1 (204)" in capsys.readouterr().out
