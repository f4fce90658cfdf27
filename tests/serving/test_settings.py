"""Settings that follow from the machine, and those that are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from eolgul.errors import InputError
from eolgul.serving import service
from eolgul.serving.settings import Settings
from eolgul.workers import usable_cpus


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu.max": "odd"}, 64),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    ],
)
def test_no_more_threads_than_the_container_may_use(
    files: dict[str, str], most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert usable_cpus(tmp_path) == most
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert usable_cpus(tmp_path) == 1


@pytest.mark.parametrize("text", ["*", "shop.example", "https://shop.example/path", "null"])
def test_an_origin_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EOLGUL_CORS_ORIGINS", f"https://a.example,{text}")
    with pytest.raises(InputError, match="expected https://host"):
        Settings().origins()


def test_pages_of_the_named_origins_may_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    monkeypatch.setenv("EOLGUL_CORS_ORIGINS", "https://shop.example, https://b.example:8443/")
    client = TestClient(service._outermost(app, unready=lambda: "", draining=lambda: False))
    asked = {"Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "authorization"}
    for origin, named in (
        ("https://shop.example", True),
        ("https://b.example:8443", True),
        ("https://evil.example", False),
    ):
        answer = client.options("/v1/people/x", headers={"Origin": origin, **asked})
        assert (answer.status_code == 200) == named
        problem = client.get("/v1/none", headers={"Origin": origin})
        assert problem.json()["code"] == "not_found"
        assert problem.headers.get("access-control-allow-origin") == (origin if named else None)
        assert "access-control-allow-credentials" not in problem.headers
