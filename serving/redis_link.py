"""One connection pool to one Redis, which may be down, slow or full: calls have a time limit and the log is not flooded."""

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
    """The type of `UNREACHABLE`, which a call returns if Redis gave no answer."""

    def __repr__(self) -> str:
        return "UNREACHABLE"


UNREACHABLE: Final = Unreachable()


class _Password(CredentialProvider):
    """User and password of each new connection; the file is read every time, so that the password can be rotated."""

    def __init__(self, username: str, password_file: Path | None) -> None:
        self._username, self._file = username, password_file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._file.read_text(encoding="utf-8").strip() if self._file else ""
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()  # the file is short; the inherited method logs a warning for every connection


class RedisLink:
    """A redis.asyncio client whose calls have a time limit and never raise.

    A call takes at most twice `timeout_s`, including the wait for a connection and the connecting. After a failure there
    are no calls for `pause_s`, so an unreachable Redis costs one timeout per pause and not one per request; the first
    call after the pause tries again. An error that Redis itself returns (full, not allowed) fails only that call.
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
        """Prepare the pool; connections are opened by the calls.

        Args:
            url: `redis://host:port/db`, or `rediss://host:port/db` with TLS.
            name: The name of this Redis in log lines ("cache").
            timeout_s: Seconds that Redis may take.
            pause_s: Seconds without calls after a failure.
            username: ACL user; empty for the default user.
            password_file: File that holds the password.
            ca_file: File of certificate authorities, for `rediss://`.

        Raises:
            InputError: The address is not valid, credentials are in the address and in the settings, or a file cannot be
                read.
        """
        self._name, self._timeout_s, self._pause_s = name, timeout_s, pause_s
        self._paused_until = 0.0
        self._failing_since: float | None = None
        self._logged_at: dict[str, float] = {}
        options: dict[str, Any] = {}
        if username or password_file:
            if "@" in url.partition("://")[2].partition("/")[0]:
                raise InputError(
                    f"the {name}'s Redis address and the settings both hold credentials; expected one of them"
                )
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
        except ValueError as error:  # its text may hold the address, which may hold a password
            raise InputError(
                f"the {name}'s address is not a Redis URL; expected redis:// or rediss://host:port/db"
            ) from error

    @classmethod
    def from_settings(cls, settings: Settings, url: str, name: str, timeout_s: float) -> RedisLink:
        """A link with the credentials and certificate authorities of the settings."""
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
        """Make a call.

        Args:
            what: A noun for the call in log lines ("look-up").
            call: Receives the client.

        Returns:
            The value of `call`, or `UNREACHABLE`.

        Raises:
            WatchError: A watched key changed. No other exception is raised.
        """
        if monotonic() < self._paused_until:
            return UNREACHABLE
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                value = await call(self._redis)
        except WatchError:
            raise
        except ResponseError as error:
            self.log(f"{self._name}: Redis refused a {what}: {_describe(error)}", type(error).__name__)
        except (
            Exception
        ) as error:  # if the server is not a Redis, the client may raise anything, even ValueError and IndexError
            self._paused_until = monotonic() + self._pause_s
            self._failing_since = self._failing_since or monotonic()
            self.log(f"{self._name}: a {what} failed: {_describe(error)}", type(error).__name__)
        else:
            if self._failing_since is not None:
                seconds, self._failing_since = monotonic() - self._failing_since, None
                self.log(f"{self._name}: Redis answers again after {seconds:.1f} s", "again")
            return value
        return UNREACHABLE

    def log(self, sentence: str, kind: str) -> None:
        """Log a line, at most one per `kind` every 30 s: a failing Redis must not fill the log or hide other problems."""
        if monotonic() - self._logged_at.get(kind, -_LOG_EVERY_S) >= _LOG_EVERY_S:
            self._logged_at[kind] = monotonic()
            logger.warning(sentence)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


# The client puts the command of a pipeline before its error, and Redis puts the arguments after an unknown command. Both
# contain keys, which identify a tenant and an image, and values.
_ARGUMENTS = re.compile(r"Command # \d+ \(.*\) of pipeline caused error: |, with args beginning with: .*", re.DOTALL)


def _describe(error: Exception) -> str:
    """Describe an error for the log, without the arguments of the command that failed."""
    return f"{type(error).__name__}: {_ARGUMENTS.sub('', str(error))}"


def _check_readable(file: Path | None) -> None:
    try:
        if file is not None:
            file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
