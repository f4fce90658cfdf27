"""One request of the API, its retries (with tenacity), and the errors with their codes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError
from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from eolgul.errors import InputError, one_line

A = TypeVar("A", bound=BaseModel)
PAGE = 500  # people per page
# Nothing was sent: there was no connection.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
# The request was sent, but the connection ended before an answer. A read timeout is not one of these: the service is slow.
_LOST = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError, httpx.CloseError)
# The service refuses these requests before it does anything.
_NOT_ADMITTED = ("busy", "model_not_ready", "rate_limited")


class EolgulError(InputError):
    """The service refused the request, or could not be reached.

    Attributes:
        code: The code of the problem document, or `no_answer` or `unexpected_answer`.
        detail: One sentence.
        status: The HTTP status; None without an answer.
        field: The form field at fault, if there is one.
        retry_after: Seconds that the service asks to wait.
        reasons: With the code `low_quality`, why the photo is too poor (`eolgul.model.region.Reason`).
    """

    def __init__(
        self, code: str, detail: str, status: int | None = None, field: str | None = None,
        retry_after: float | None = None, reasons: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__(detail, code)
        self.detail, self.status, self.field, self.retry_after = detail, status, field, retry_after
        self.reasons = tuple(reasons)


class _TemporaryError(EolgulError):
    """An error that may not occur in another attempt."""


@dataclass(frozen=True, slots=True)
class Retries:
    """When a request is tried again.

    Attributes:
        attempts: Largest number of attempts.
        first_s: Scale of the first wait in seconds; waits are random and grow.
        longest_s: Longest random wait in seconds.
        honour_s: A `Retry-After` of at most this many seconds is waited for, plus a random wait, so that clients do not
            return at the same time. A longer one raises the error at once.
    """

    attempts: int = 5
    first_s: float = 0.2
    longest_s: float = 5.0
    honour_s: float = 60.0

    def options(self) -> dict[str, Any]:
        """The arguments of tenacity's `Retrying` and `AsyncRetrying`."""
        backoff = wait_random_exponential(multiplier=self.first_s, max=self.longest_s)

        def wait(state: RetryCallState) -> float:
            return _retry_after(state) + backoff(state)

        def is_temporary(error: BaseException) -> bool:
            return isinstance(error, _TemporaryError) and (error.retry_after or 0.0) <= self.honour_s

        return {
            "retry": retry_if_exception(is_temporary),
            "stop": stop_after_attempt(self.attempts),
            "wait": wait,
            "reraise": True,
        }


def _retry_after(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return error.retry_after or 0.0 if isinstance(error, EolgulError) else 0.0


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request that can be sent several times. `idempotent`: sending it twice has the effect of sending it once."""

    method: str
    path: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    data: Mapping[str, str] | None = None
    files: list[tuple[str, tuple[str, bytes]]] | None = None
    json: Mapping[str, Any] | None = None
    idempotent: bool = True

    def build(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request of httpx."""
        return client.build_request(
            self.method, self.path, params=dict(self.params), data=self.data, files=self.files, json=self.json
        )

    def connection_error(self, error: httpx.TransportError, url: httpx.URL) -> EolgulError:
        """The error for a connection failure before the first byte of the response."""
        again = isinstance(error, _UNSENT) or (self.idempotent and isinstance(error, _LOST))
        kind = _TemporaryError if again else EolgulError
        return kind("no_answer", f"{url}: no answer ({str(error) or type(error).__name__})")

    def refusal(self, response: httpx.Response) -> EolgulError:
        """The error for a response with an error status, whose body has been read."""
        retry_after = _seconds(response.headers.get("Retry-After"))
        try:
            problem = response.json()
            code, detail, form_field = str(problem["code"]), str(problem["detail"]), problem.get("field")
        except (ValueError, KeyError, TypeError):
            code, form_field, problem = "unexpected_answer", None, {}
            why = _IN_FRONT.get(response.status_code, "without a problem document of eolgul")
            detail = f"{response.url}: HTTP status {response.status_code} {why}"
        # An idempotent request may be repeated whoever refused it; any other only if eolgul itself did not admit it.
        again = code in _NOT_ADMITTED or (self.idempotent and response.status_code in (429, 503))
        kind = _TemporaryError if again else EolgulError
        return kind(code, detail, response.status_code, form_field, retry_after, problem.get("reasons") or ())


# What a proxy or an ingress means by an error of its own.
_IN_FRONT = {
    413: "of something in front of eolgul, such as a proxy, which takes no body of this size",
    502: "of something in front of eolgul, such as a proxy, which does not reach the service",
    503: "of something in front of eolgul, such as a proxy, which has no service to ask",
    504: "of something in front of eolgul, such as a proxy, which did not wait for the answer",
}


def options(url: str, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    """The arguments of httpx's clients. InputError if the address or the key is not valid."""
    try:
        address = httpx.URL(url.rstrip("/"))
    except httpx.InvalidURL as error:
        raise InputError(
            f"{url}: not an address of a service ({one_line(error)}), expected http://… or https://…"
        ) from error
    if address.scheme not in ("http", "https") or not address.host:
        raise InputError(f"{url}: expected the address of a service, http://… or https://…")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise InputError("the API key has characters that no key has, expected eolgul_<key id>_<secret>")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {"base_url": address, "headers": headers, "timeout": httpx.Timeout(timeout_s, connect=min(5.0, timeout_s))}


def broken_off(error: httpx.RequestError, url: httpx.URL) -> EolgulError:
    """The error for a failure in the middle of a response, which is not retried."""
    return EolgulError("no_answer", f"{url}: the answer broke off ({str(error) or type(error).__name__})")


def parse(response: httpx.Response, shape: type[A]) -> A:
    """Parse the body of a successful response. EolgulError `unexpected_answer` if it does not match the API."""
    try:
        return shape.model_validate_json(response.content)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise EolgulError(
            "unexpected_answer", f"{response.url}: {place or 'the answer'}: {first['msg']}", response.status_code
        ) from error


def _seconds(value: str | None) -> float | None:
    """The seconds of a `Retry-After`, which is a number of seconds or a date (RFC 9110)."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def parse_line(line: str, response: httpx.Response) -> dict[str, Any]:
    """Parse one line of an answer in JSON lines. EolgulError `unexpected_answer` if it is no object."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise EolgulError("unexpected_answer", f"{response.url}: a line is not JSON") from error
    if not isinstance(value, dict):
        raise EolgulError("unexpected_answer", f"{response.url}: a line is not a JSON object")
    return value
