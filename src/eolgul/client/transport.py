"""One request with its tries, and errors as values with codes. The waiting between tries is tenacity's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError
from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from eolgul.errors import InputError

A = TypeVar("A", bound=BaseModel)
# Nothing was sent: there was no connection to send it on.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
# Sent, but the connection ended before an answer. A read timeout is none of these: that service is slow, not gone.
_LOST = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError, httpx.CloseError)
# The service turned the request away at the door, so that it has certainly done nothing.
_TURNED_AWAY = ("busy", "model_not_ready", "rate_limited")


class EolgulError(InputError):
    """The service refused, or could not be reached. `code` is that of the problem document, or `no_answer`,
    `unexpected_answer`; `status` the HTTP status, None without an answer; `field` the form field that is to blame;
    `retry_after` the seconds that the service asks to wait."""

    def __init__(
        self, code: str, detail: str, status: int | None = None, field: str | None = None,
        retry_after: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(detail, code)
        self.detail, self.status, self.field, self.retry_after = detail, status, field, retry_after


class _PassingError(EolgulError):
    """An error that another try may not meet."""


@dataclass(frozen=True, slots=True)
class Retries:
    """At most `attempts` tries. Waits grow at random up to `longest_s`; a `Retry-After` up to `honour_s` is waited for
    in full and a little more (so that clients do not come back together), a longer one is raised at once."""

    attempts: int = 5
    first_s: float = 0.2
    longest_s: float = 5.0
    honour_s: float = 60.0

    def options(self) -> dict[str, Any]:
        """The arguments of tenacity's `Retrying` and `AsyncRetrying`."""
        backoff = wait_random_exponential(multiplier=self.first_s, max=self.longest_s)

        def wait(state: RetryCallState) -> float:
            return _asked(state) + backoff(state)

        def passing(error: BaseException) -> bool:
            return isinstance(error, _PassingError) and (error.retry_after or 0.0) <= self.honour_s

        return {
            "retry": retry_if_exception(passing),
            "stop": stop_after_attempt(self.attempts),
            "wait": wait,
            "reraise": True,
        }


def _asked(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return error.retry_after or 0.0 if isinstance(error, EolgulError) else 0.0


@dataclass(frozen=True, slots=True)
class Call:
    """A request that can be sent again and again. `idempotent`: doing it twice is doing it once."""

    method: str
    path: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    data: Mapping[str, str] | None = None
    files: list[tuple[str, tuple[str, bytes]]] | None = None
    idempotent: bool = True

    def request(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        return client.build_request(self.method, self.path, params=dict(self.params), data=self.data, files=self.files)

    def lost(self, error: httpx.TransportError, url: httpx.URL) -> EolgulError:
        """What a failure before any byte of an answer comes to."""
        again = isinstance(error, _UNSENT) or (self.idempotent and isinstance(error, _LOST))
        kind = _PassingError if again else EolgulError
        return kind("no_answer", f"{url}: no answer ({str(error) or type(error).__name__})")

    def refused(self, response: httpx.Response) -> EolgulError:
        """What an error status comes to; the body has been read."""
        retry_after = _seconds(response.headers.get("Retry-After"))
        try:
            problem = response.json()
            code, detail, to_blame = str(problem["code"]), str(problem["detail"]), problem.get("field")
        except (ValueError, KeyError, TypeError):
            code, to_blame = "unexpected_answer", None
            detail = f"{response.url}: HTTP status {response.status_code}, and not what eolgul answers"
        # An idempotent call may be repeated whoever refused it; any other only when eolgul itself says it did nothing.
        again = code in _TURNED_AWAY or (self.idempotent and response.status_code in (429, 503))
        kind = _PassingError if again else EolgulError
        return kind(code, detail, response.status_code, to_blame, retry_after)


def cut(error: httpx.RequestError, url: httpx.URL) -> EolgulError:
    """What a failure in the middle of an answer comes to. It is not tried again."""
    return EolgulError("no_answer", f"{url}: the answer broke off ({str(error) or type(error).__name__})")


def parse(response: httpx.Response, kind: type[A]) -> A:
    """The body of a good answer. EolgulError `unexpected_answer` when it is not what the API says."""
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise EolgulError(
            "unexpected_answer", f"{response.url}: {place or 'the answer'}: {first['msg']}", response.status_code
        ) from error


def _seconds(value: str | None) -> float | None:
    """A `Retry-After`, which is a number of seconds or a date (RFC 9110)."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
