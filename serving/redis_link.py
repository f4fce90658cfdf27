"""One connection pool to one Redis, which may be down, slow or full: calls have a time limit and the log is not flooded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
    WatchError,
)

from eolgul.errors import InputError
from eolgul.serving.settings import Settings

logger = logging.getLogger("eolgul.redis")
T = TypeVar("T")
_LOG_EVERY_S = 30.0
_LOOKS = 8
_AGAIN_S = 0.05  # before the second attempt: a fail-over moves an address in steps
_ELSEWHERE = (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    TryAgainError,
)
_OF_CLUSTER = (AskError, ClusterDownError, MovedError)
# Answers that the client has no class for: no disk, and too few replicas.
_ELSEWHERE_WORDS = re.compile(r"\W*(MISCONF|NOREPLICAS)\b")
_SENTINEL = re.compile(r"(rediss?)\+sentinel://(?:([^@/]*)@)?([^/]+)/([^/?]+)(?:/(\d+))?")
_SENTINEL_PORT = 26379


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


@asynccontextmanager
async def _patience(seconds: float) -> AsyncIterator[None]:
    """A time limit (TimeoutError) that does not count the time in which the event loop was late.

    It looks at the clock several times before the end. A look that comes late puts the end off by as much: while the loop stood
    still, no answer could be read.
    """
    loop, step = asyncio.get_running_loop(), seconds / _LOOKS
    handle: asyncio.TimerHandle
    async with asyncio.timeout(seconds) as limit:

        def look(due: float, left: int) -> None:
            nonlocal handle
            late, end = loop.time() - due, limit.when()
            if end is not None and late > step / 4:
                limit.reschedule(end + late)
            if left:
                handle = loop.call_later(step, look, loop.time() + step, left - 1)

        handle = loop.call_later(step, look, loop.time() + step, _LOOKS - 2)
        try:
            yield
        finally:
            handle.cancel()


class RedisLink:
    """A redis.asyncio client whose calls have a time limit and never raise.

    An attempt takes at most twice `timeout_s`, including the wait for a connection and the connecting. Time in which this process
    was late is not counted: with a busy processor an answer may lie in the socket for long. After a failure there
    are no calls for `pause_s`, so an unreachable Redis costs one timeout per pause and not one per request; the first
    call after the pause tries again. An error that Redis itself returns (full, not allowed) fails only that call.

    After a fail-over the old connections lead to a server that refuses, or to none. So each failure closes the idle ones, and an answer
    that means "not here, or not now" (a replica, a server that loads its data, a cluster that moves a slot) is tried once more on a
    new connection, as is a call whose connection was lost, unless it is for once only.
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
            url: `redis://host:port/db`, or `rediss://host:port/db` with TLS; `redis+sentinel://host:port,host:port/name/db`
                (or `rediss+sentinel`) for the master that Sentinels name.
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
        options |= {
            "socket_timeout": None,  # `run` has the only clock
            "socket_connect_timeout": None,
            "retry": Retry(NoBackoff(), 0),  # the client's default retries take seconds
            "health_check_interval": 0,
        }
        if "+cluster:" in url.partition("//")[0]:
            raise InputError(
                f"the {name}'s address names a Redis Cluster, which is not supported; expected redis:// of one server or "
                "redis+sentinel://host:port,host:port/name/db"
            )
        try:
            self._redis = _client(url, options)
        except ValueError as error:  # its text may hold the address, which may hold a password
            raise InputError(
                f"the {name}'s address is not a Redis URL; expected redis:// or rediss://host:port/db, or "
                "redis+sentinel://host:port,host:port/name/db"
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

    async def run(self, what: str, call: Callable[[Redis], Awaitable[T]], *, once: bool = False) -> T | Unreachable:
        """Make a call.

        Args:
            what: A noun for the call in log lines ("look-up").
            call: Receives the client.
            once: Whether the call may not be made again after a lost connection, because it may have had its effect.

        Returns:
            The value of `call`, or `UNREACHABLE`.

        Raises:
            WatchError: A watched key changed. No other exception is raised.
        """
        if monotonic() < self._paused_until:
            return UNREACHABLE
        for attempt in (1, 2):
            try:
                async with _patience(2 * self._timeout_s):
                    value = await call(self._redis)
            except WatchError:
                raise
            except Exception as error:  # if the server is not a Redis, even ValueError and IndexError
                elsewhere = _is_elsewhere(error)
                if isinstance(error, ResponseError) and not elsewhere:
                    self.log(f"{self._name}: Redis refused a {what}: {_describe(error)}", type(error).__name__)
                    return UNREACHABLE
                await self._close_idle()
                lost = isinstance(error, ConnectionError) and not once
                if attempt == 1 and (elsewhere or lost):
                    await asyncio.sleep(_AGAIN_S)
                    continue
                self._paused_until = monotonic() + self._pause_s
                self._failing_since = self._failing_since or monotonic()
                self.log(f"{self._name}: a {what} failed: {_describe(error)}", type(error).__name__)
                return UNREACHABLE
            if self._failing_since is not None:
                seconds, self._failing_since = monotonic() - self._failing_since, None
                self.log(f"{self._name}: Redis answers again after {seconds:.1f} s", "again")
            return value
        raise AssertionError("the second attempt ends the call")

    async def _close_idle(self) -> None:
        """Close the connections that no call uses, so that the next ones go where the address leads now."""
        with contextlib.suppress(Exception):  # a connection that cannot be closed is not used either
            await self._redis.connection_pool.disconnect(inuse_connections=False)

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


def _is_elsewhere(error: Exception) -> bool:
    """Whether Redis did not carry the command out, and another server, or this one later, may."""
    if isinstance(error, ResponseError):
        return isinstance(error, _ELSEWHERE) or bool(_ELSEWHERE_WORDS.match(_ARGUMENTS.sub("", str(error))))
    return isinstance(error, _ELSEWHERE)


def _client(url: str, options: dict[str, Any]) -> Redis:
    """A client for an address; ValueError if it is none."""
    match = _SENTINEL.fullmatch(url)
    if match is None:
        if "+sentinel:" in url:
            raise ValueError("not the address of Sentinels")
        return Redis.from_url(url, **options)
    scheme, login, hosts, name, db = match.groups()
    if login:
        user, _, password = login.partition(":")
        options |= {"username": unquote(user) or None, "password": unquote(password) or None}
    if scheme == "rediss":
        options |= {"ssl": True}
    sentinels = []
    for host in hosts.split(","):
        address = urlsplit(f"//{host}")
        if not address.hostname:
            raise ValueError("a Sentinel without a host")
        sentinels.append((address.hostname, address.port or _SENTINEL_PORT))
    keys = ("ssl", "ssl_ca_certs", "socket_timeout", "socket_connect_timeout", "retry")
    own = {key: options[key] for key in keys if key in options}
    master: Redis = Sentinel(sentinels, sentinel_kwargs=own).master_for(name, db=int(db or 0), **options)  # type: ignore[no-untyped-call]
    return master


def _describe(error: Exception) -> str:
    """Describe an error for the log, without the arguments of the command that failed."""
    cluster = " (this Redis is part of a cluster, which is not supported)" if isinstance(error, _OF_CLUSTER) else ""
    return f"{type(error).__name__}: {_ARGUMENTS.sub('', str(error))}{cluster}"


def _check_readable(file: Path | None) -> None:
    try:
        if file is not None:
            file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
