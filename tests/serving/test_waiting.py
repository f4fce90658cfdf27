"""`eolgul serve` as a container starts it, before its keys, its store, its model and its Redis: it waits and takes them."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.late import Late
from support.load import until
from support.serving import People, RedisServer, free_port

from eolgul import storage
from eolgul.artifact import canonical_json
from eolgul.errors import InputError
from eolgul.model.package import ModelPackage
from eolgul.serving import launch
from eolgul.serving.access.keys import new_key
from eolgul.serving.keyring import add_key

EOLGUL = [sys.executable, "-c", "from eolgul.cli import main; main()"]


@dataclass
class Waiting:
    """A service that was started by `eolgul serve`, with what it says on standard error."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    log: Path

    def reason(self) -> str:
        """What /readyz answers: the reason of 503, "" for 200. /livez must answer 200 all the while."""
        assert self.client.get("/livez").status_code == 200
        answer = self.client.get("/readyz")
        return "" if answer.status_code == 200 else f"{answer.json()['code']}: {answer.json()['detail']}"

    def answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.client.get("/livez").status_code == 200
        assert self.process.poll() is None, self.log.read_text()
        return False


@contextlib.contextmanager
def serving(folder: Path, *options: str, **settings: str) -> Iterator[Waiting]:
    """Nobody is at a terminal, as in a container."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name not in ("EOLGUL_MODEL", "EOLGUL_WAIT")}
    environment |= {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "EOLGUL_RETRY_S": "0.3",
        "EOLGUL_S3_CACHE": str(folder / "s3"),
    }
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*EOLGUL, "serve", "--port", str(port), *options], env=environment | settings,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            waiting = Waiting(process, client, log)
            until(waiting.answers, 60)
            yield waiting
    finally:
        process.terminate()
        process.wait(40)


def test_everything_comes_after_the_start(
    s3: str, package: ModelPackage, people: People, tmp_path: Path, redis_server: RedisServer
) -> None:
    store = Late(storage.S3Settings().endpoint)
    redis = Late(f"127.0.0.1:{redis_server.port}")
    registry, keys, encryption, authorities = (
        f"{s3}/waiting",
        *(tmp_path / name for name in ("keys", "ring", "authorities")),
    )
    settings = {
        "EOLGUL_REGISTRY": registry,
        "EOLGUL_S3_ENDPOINT": store.address,
        "EOLGUL_REDIS_URL": f"redis://{redis.address}/0",
        "EOLGUL_GALLERY_URL": f"redis://{redis.address}/1",
        "EOLGUL_REDIS_TIMEOUT_S": "0.5",
        "EOLGUL_REDIS_PAUSE_S": "0.1",
        "EOLGUL_API_KEYS_FILE": str(keys),
        "EOLGUL_ENCRYPTION_KEYS_FILE": str(encryption),
        "EOLGUL_REDIS_CA_FILE": str(authorities),
    }
    reasons: list[str] = []

    def waits_for(*words: str) -> Callable[[], bool]:
        def true() -> bool:
            reasons.append(waiting.reason())
            return all(word in reasons[-1] for word in words)

        return true

    def said(words: str) -> bool:
        """Whether the command has printed it; it looks once a second."""
        lines = waiting.log.read_text().splitlines()
        return any(line.startswith("not ready: ") and words in line for line in lines)

    def verify(key: str) -> httpx.Response:
        files = {"image1": ("x", people.a1), "image2": ("y", people.a2)}
        return waiting.client.post("/v1/verify", headers={"Authorization": f"Bearer {key}"}, files=files)

    with serving(tmp_path, **settings) as waiting:
        until(waits_for("model_not_ready", str(encryption), "cannot be read"), 20)
        refused = verify("eolgul_nobody_x")
        assert (refused.status_code, refused.json()["code"]) == (503, "model_not_ready")
        assert str(tmp_path) not in refused.text  # where the files lie is the operator's business
        encryption.write_text("half a li")
        until(waits_for(str(encryption), "line 1"), 20)
        encryption.unlink()
        add_key(encryption)
        until(waits_for(str(authorities), "cannot be read"), 20)
        authorities.write_text("")
        until(waits_for(str(keys), "expected a file of API keys"), 20)
        until(lambda: said("expected a file of API keys"), 20)
        key, _ = new_key(keys, tenant="t", scopes=("verify",))
        until(waits_for("model_not_ready", store.address), 40)  # S3, by its address
        assert verify(key).json()["code"] == "model_not_ready"
        store.open()
        until(waits_for("no model has been promoted yet"), 40)
        until(lambda: said("no model has been promoted yet"), 20)
        storage.publish(package.path, f"{registry}/models/{package.digest}")
        pointer: dict[str, Any] = {"digest": package.digest, "promoted_at": "2026-01-01T00:00:00+00:00"}
        pointer |= {"previous": None, "reasons": []}
        storage.write_bytes(f"{registry}/production.json", canonical_json(pointer))
        until(lambda: waiting.reason() == "", 30)
        assert verify("eolgul_nobody_x").json()["code"] == "unauthorized"
        first = verify(key)  # Redis is still away: answered without a cache
        assert first.status_code == 200 and first.json()["model"] == package.digest, first.text
        redis.open()
        until(lambda: verify(key).json()["cached"] == [True, True], 20)
        assert "Retrying (" not in waiting.log.read_text()  # a client's attempts would drown the reasons
    store.close()
    redis.close()


def test_a_stop_while_waiting_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    with serving(tmp_path, "--registry", str(tmp_path / "registry"), EOLGUL_DRAIN_S="30") as waiting:
        until(lambda: "no model has been promoted" in waiting.reason(), 20)
        start = time.monotonic()
        waiting.process.send_signal(signal.SIGTERM)
        assert waiting.process.wait(20) == 128 + signal.SIGTERM
        assert time.monotonic() - start < 10
        with pytest.raises(httpx.TransportError):
            waiting.client.get("/livez")


def test_at_a_terminal_it_says_so_at_once(tmp_path: Path) -> None:
    """The whole difference is one value; what it does without waiting is in test_launch.py."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream in ("stdin", "stderr"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.StringIO())
            patch.setattr(sys, "stderr", io.StringIO())
            assert not launch._at_terminal()
            patch.setattr(sys, stream, Terminal())
            assert launch._at_terminal()


@pytest.mark.parametrize(("given", "waits"), [(None, True), ("true", True), ("false", False)])
def test_who_waits(given: str | None, waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal it waits, and `--wait` or `EOLGUL_WAIT` decide before that."""
    from typer.testing import CliRunner

    from eolgul.cli.main import app

    asked: list[bool] = []
    monkeypatch.setattr(launch, "_at_terminal", lambda: False)

    @contextlib.contextmanager
    def started(*arguments: object, wait: bool) -> Iterator[None]:
        asked.append(wait)
        raise InputError("far enough")
        yield

    monkeypatch.setattr(launch, "_started", started)
    environment = {"EOLGUL_REGISTRY": str(tmp_path), "EOLGUL_WAIT": given}
    CliRunner().invoke(app, ["serve"], env=environment)
    CliRunner().invoke(app, ["serve", "--no-wait"], env=environment)
    CliRunner().invoke(app, ["serve", "--wait"], env=environment)
    assert asked == [waits, False, True]
