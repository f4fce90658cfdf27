"""One connection pool to one Redis, which may be down, slow or full: calls end in time and the log is not flooded."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import ResponseError, WatchError

from eolgul.errors import InputError
from eolgul.serving.settings import Settings

logger = logging.getLogger("eolgul.redis")
T = TypeVar("T")
_LOG_EVERY_S = 30.0


class Unreachable:
    """What a call gave that Redis did not answer: the type of `UNREACHABLE`, its only instance."""

    def __repr__(self) -> str:
        return "UNREACHABLE"


UNREACHABLE: Final = Unreachable()


class _Password(CredentialProvider):
    """User and password for each new connection; the file is read again each time, so that it can be rotated."""

    def __init__(self, username: str, password_file: Path | None) -> None:
        self._username, self._file = username, password_file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._file.read_text(encoding="utf-8").strip() if self._file else ""
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()  # a short file: the inherited method would warn at every connection


class RedisLink:
    """A redis.asyncio client behind a guard.

    A call takes at most twice `timeout_s` (waiting for a connection and connecting included). After a failure Redis is
    left alone for `pause_s`, so that a dead one costs one timeout a pause and not one a request; the first call after
    the pause finds out whether it is back. An error that Redis itself answers (full, not allowed) fails that call only.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        timeout_s: float = 0.05,
        pause_s: float = 1.0,
        username: str = "",
        password_file: Path | None = None,
        ca_file: Path | None = None,
    ) -> None:
        """`url`: `redis://` or, with TLS, `rediss://host:port/db`; `name` is what log lines call it ("cache").

        InputError for an impossible address, credentials in two places, or a file that cannot be read.
        """
        self._name, self._timeout_s, self._pause_s = name, timeout_s, pause_s
        self._paused_until = 0.0
        self._failing_since: float | None = None
        self._logged_at: dict[str, float] = {}
        options: dict[str, Any] = {}
        if username or password_file:
            if "@" in url.partition("://")[2].partition("/")[0]:
                raise InputError(f"the {name}'s Redis address holds credentials and so do the settings; leave one out")
            options["credential_provider"] = _Password(username, password_file)
        for file in (password_file, ca_file):
            _check_readable(file)
        if ca_file and url.startswith("rediss://"):
            options["ssl_ca_certs"] = str(ca_file)
        try:
            self._redis: Redis = Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),  # the client's default retries take seconds
                health_check_interval=0,
                **options,
            )
        except ValueError as error:  # its text may hold the address, and that a password
            raise InputError(
                f"the {name}'s Redis address is none; expected redis:// or rediss://host:port/db"
            ) from error

    @classmethod
    def of(cls, settings: Settings, url: str, name: str, timeout_s: float) -> RedisLink:
        """A link with the credentials and the authorities of the settings."""
        return cls(
            url,
            name=name,
            timeout_s=timeout_s,
            pause_s=settings.redis_pause_s,
            username=settings.redis_username,
            password_file=settings.redis_password_file,
            ca_file=settings.redis_ca_file,
        )

    async def run(self, what: str, call: Callable[[Redis], Awaitable[T]]) -> T | Unreachable:
        """What `call` gives, or `UNREACHABLE`. Never raises but for WatchError, which a caller of WATCH expects."""
        if monotonic() < self._paused_until:
            return UNREACHABLE
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                value = await call(self._redis)
        except WatchError:
            raise
        except ResponseError as error:
            self.log(f"{self._name}: Redis refused a {what}: {_told(error)}", type(error).__name__)
        except Exception as error:  # what is no Redis makes the client raise anything, ValueError and IndexError too
            self._paused_until = monotonic() + self._pause_s
            self._failing_since = self._failing_since or monotonic()
            self.log(f"{self._name}: a {what} failed: {_told(error)}", type(error).__name__)
        else:
            if self._failing_since is not None:
                seconds, self._failing_since = monotonic() - self._failing_since, None
                self.log(f"{self._name}: Redis answers again after {seconds:.1f} s", "again")
            return value
        return UNREACHABLE

    def log(self, sentence: str, kind: str) -> None:
        """At most a line of a kind every half minute: a dead Redis must not fill the log, nor hide another trouble."""
        if monotonic() - self._logged_at.get(kind, -_LOG_EVERY_S) >= _LOG_EVERY_S:
            self._logged_at[kind] = monotonic()
            logger.warning(sentence)

    async def close(self) -> None:
        await self._redis.aclose()


# What the client puts before an error in a pipeline, and Redis behind an unknown command: keys, which name a tenant
# and a picture, and values.
_ARGUMENTS = re.compile(r"Command # \d+ \(.*\) of pipeline caused error: |, with args beginning with: .*", re.DOTALL)


def _told(error: Exception) -> str:
    """The error for the log, without the arguments of the command that failed."""
    return f"{type(error).__name__}: {_ARGUMENTS.sub('', str(error))}"


def _check_readable(file: Path | None) -> None:
    try:
        if file is not None:
            file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
