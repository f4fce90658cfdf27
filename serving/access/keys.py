"""API keys: the caller, its tenant, and its scopes.

A key is `eolgul_<key id>_<secret>`. The file holds only its SHA-256, which is useless to a thief. A slow password hash is
not needed: it protects passwords that can be guessed, while the secret is 32 random bytes, and it would add 50 ms to every
request.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from eolgul.errors import InputError
from eolgul.files import atomic_file
from eolgul.serving.problems import RejectionError

logger = logging.getLogger("eolgul.keys")

SCOPES = ("verify", "detect", "embed", "identify", "enroll", "gallery")
ADMIN = "admin"  # makes and revokes keys of its tenant over HTTP; only a key of the file can have it
TICKET_S = 300
_SECRET_BYTES = 32
_REREAD_S = 2.0
_KEY = re.compile(r"eolgul_([A-Za-z0-9-]{1,64})_([A-Za-z0-9_-]{43,128})")
_TICKET = re.compile(r"([A-Za-z0-9-]{1,64})\.([0-9]{1,12})\.([0-9a-f]{64})")
_NOBODY = bytes(32)  # compared if the key does not exist, so that both cases take the same time
_REFUSAL = "a valid API key is needed: send `Authorization: Bearer eolgul_…`"

Scope = Literal["verify", "detect", "embed", "identify", "enroll", "gallery", "admin"]


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request. `requests_per_minute` is the key's own limit; None for the service's default."""

    tenant: str
    key_id: str
    scopes: frozenset[str]
    requests_per_minute: int | None = None

    def require(self, *scopes: str) -> None:
        """Raise RejectionError `forbidden`, which names the scope, if the key lacks one of `scopes`."""
        for scope in scopes:
            if scope not in self.scopes:
                raise RejectionError(f"this API key lacks the scope {scope}", "forbidden")


EVERYONE = Caller("public", "open", frozenset(SCOPES))


class ApiKey(BaseModel):
    """One entry of the keys file. `sha256` (hex) is the digest of the whole key; `expires` has a time zone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
    tenant: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...] = Field(min_length=1)
    expires: AwareDatetime | None = None
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    note: str = ""

    def valid(self, now: datetime) -> bool:
        """Whether the key has not expired."""
        return self.expires is None or now < self.expires

    @property
    def caller(self) -> Caller:
        """The caller who sends this key."""
        return Caller(self.tenant, self.id, frozenset(self.scopes), self.requests_per_minute)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal[1]
    keys: tuple[ApiKey, ...]

    @field_validator("keys")
    @classmethod
    def _distinct(cls, keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        for key_id, count in Counter(key.id for key in keys).items():
            if count > 1:
                raise ValueError(f"the key id {key_id} appears {count} times, expected distinct ids")
        return keys


class ApiKeys:
    """The keys of a file, which is read again when it changes.

    Every worker has its own instance; the only I/O of requests is one `stat` every two seconds.

    If the changed file is not valid, the keys stay as they are and the log says so once: a mistake in an editor must not
    lock everyone out. To revoke all keys, write an empty list; removing the file revokes none.
    """

    def __init__(self, path: Path | None, keys: Mapping[str, ApiKey]) -> None:
        self._path, self._keys = path, keys
        # Those made over HTTP (`eolgul.serving.access.stored_keys`), by id; None while they are not read yet.
        self.stored: Mapping[str, ApiKey] | None = {}
        self._read_signature = _signature(path) if path else None
        self._checked = time.monotonic()

    @classmethod
    def read(cls, path: Path) -> ApiKeys:
        """Read the keys of a file. InputError if it is not valid."""
        keys = cls(path, {})  # the signature is taken before the file is read, so that a change meanwhile is noticed
        keys._keys = _by_id(read_keys(path))
        return keys

    @classmethod
    def awaited(cls) -> ApiKeys:
        """Keys that are not there yet: every call is refused with `model_not_ready`, since the service is not ready."""
        return _Awaited(Path(), {})

    @classmethod
    def open_to_all(cls) -> ApiKeys:
        """No authentication: every caller is the tenant `public` with all scopes."""
        return cls(None, {})

    @property
    def open(self) -> bool:
        """Whether no key is needed."""
        return self._path is None

    @property
    def tenants(self) -> list[str]:
        """The tenants that have a key."""
        if self._path is None:
            return [EVERYONE.tenant]
        return sorted({key.tenant for key in (*self._keys.values(), *(self.stored or {}).values())})

    @property
    def in_file(self) -> Mapping[str, ApiKey]:
        """The keys of the file, by id."""
        self._refresh()
        return self._keys

    def _find(self, key_id: str) -> ApiKey | None:
        return self._keys.get(key_id) or (self.stored or {}).get(key_id)

    def authenticate(self, header: str | None) -> Caller:
        """The caller, from the value of the header `Authorization`.

        Raises:
            RejectionError: `unauthorized`, with the same sentence for every reason: details would only help guessing;
                `gallery_unavailable` for a key that may be one of those that are not read yet.
        """
        if self._path is None:
            return EVERYONE
        self._refresh()
        scheme, _, sent = (header or "").strip().partition(" ")
        match = _KEY.fullmatch(sent.strip()) if scheme.lower() == "bearer" else None
        key = self._find(match[1]) if match else None  # the id is not a secret
        if match and key is None and self.stored is None:
            raise RejectionError("the API keys that were made over HTTP cannot be read yet", "gallery_unavailable")
        digest = hashlib.sha256(sent.strip().encode("utf-8", "replace")).digest()
        equal = hmac.compare_digest(digest, bytes.fromhex(key.sha256) if key else _NOBODY)
        if key is None or not equal or not key.valid(datetime.now(UTC)):
            raise RejectionError(_REFUSAL, "unauthorized")
        return key.caller

    def report_ticket(self, key_id: str) -> str:
        """Create the value of a cookie that opens the report page for `TICKET_S` seconds.

        A browser that follows a link sends no API key. The ticket is an HMAC-SHA256 keyed with the stored hash of the API
        key, so every worker can check it, and it ends with the key. It is empty if the service needs no keys.

        Raises:
            RejectionError: `unauthorized` for an unknown key.
        """
        if self._path is None:
            return ""
        key = self._find(key_id)
        if key is None:
            raise RejectionError(_REFUSAL, "unauthorized")
        expires = int(time.time()) + TICKET_S
        return f"{key_id}.{expires}.{_ticket_mac(key, expires).hex()}"

    def check_ticket(self, ticket: str | None) -> Caller:
        """The owner of a ticket, without any scope: a stolen ticket opens only the report.

        Raises:
            RejectionError: `unauthorized` if the ticket is forged or has expired, or its key was revoked.
        """
        if self._path is None:
            return EVERYONE
        self._refresh()
        match = _TICKET.fullmatch(ticket or "")
        key = self._find(match[1]) if match else None
        if match is None or key is None or not key.valid(datetime.now(UTC)):
            raise RejectionError(_REFUSAL, "unauthorized")
        expires = int(match[2])
        equal = hmac.compare_digest(bytes.fromhex(match[3]), _ticket_mac(key, expires))
        if not equal or expires < time.time():
            raise RejectionError(_REFUSAL, "unauthorized")
        return Caller(key.tenant, key.id, frozenset(), key.requests_per_minute)

    def _refresh(self) -> None:
        if self._path is None or time.monotonic() - self._checked < _REREAD_S:
            return
        self._checked = time.monotonic()
        signature = _signature(self._path)
        if signature == self._read_signature:
            return
        self._read_signature = signature  # before reading, so that a broken file is logged once, not every two seconds
        try:
            self._keys = _by_id(read_keys(self._path))
        except InputError as error:
            logger.error("the API keys stay as they were: %s", error)
        else:
            logger.info("%s: %d API keys", self._path.name, len(self._keys))


class _Awaited(ApiKeys):
    """The keys of a service that waits for its files."""

    def authenticate(self, header: str | None) -> Caller:
        raise RejectionError("the service has no keys yet; /readyz says why", "model_not_ready")

    def check_ticket(self, ticket: str | None) -> Caller:
        return self.authenticate(None)


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Read the entries of a keys file, in its order. The InputError names the place in the file but quotes no value."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}, expected a file of API keys (make one: eolgul key new)") from error
    try:
        return _File.model_validate_json(data).keys
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise InputError(
            f"{path}: {place + ': ' if place else ''}{first['msg']}, expected a file of API keys"
        ) from None


def new_key(
    path: Path,
    *,
    tenant: str,
    scopes: Collection[str],
    expires: datetime | None = None,
    requests_per_minute: int | None = None,
    note: str = "",
) -> tuple[str, ApiKey]:
    """Create a key and add its entry to the file, which is created with mode 0600 if absent.

    Returns:
        The key, which is stored nowhere, and its entry.

    Raises:
        InputError: A scope is unknown, the tenant is malformed, or the file is not valid.
    """
    text, key = make_key(
        tenant=tenant, scopes=scopes, expires=expires, requests_per_minute=requests_per_minute, note=note
    )
    with _changing(path) as keys:
        keys.append(key)
    return text, key


def make_key(
    *, tenant: str, scopes: Collection[str], expires: datetime | None, requests_per_minute: int | None, note: str
) -> tuple[str, ApiKey]:
    """Create a key that is in no file yet, and its entry. InputError as `new_key`."""
    known = (*SCOPES, ADMIN)
    for scope in scopes:
        if scope not in known:
            raise InputError(f"scope {scope!r}: expected one of {', '.join(known)}")
    key_id = secrets.token_hex(6)
    text = f"eolgul_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    entry = {
        "id": key_id,
        "tenant": tenant,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "scopes": sorted(set(scopes), key=known.index),
        "expires": expires,
        "requests_per_minute": requests_per_minute,
        "note": note,
    }
    try:
        key = ApiKey.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise InputError(f"{str(first['loc'][0]).replace('_', ' ')} of the new key: {first['msg']}") from None
    return text, key


def revoke_key(path: Path, key_id: str) -> ApiKey:
    """Remove a key from the file; running services refuse it within two seconds. InputError if it is not in the file."""
    with _changing(path) as keys:
        for key in keys:
            if key.id == key_id:
                keys.remove(key)
                return key
        raise InputError(f"{path}: no API key has the id {key_id}, expected one of those that `eolgul key list` prints")


@contextmanager
def _changing(path: Path) -> Iterator[list[ApiKey]]:
    """Yield the file's entries, to be changed in place and written back in one step; other changes wait."""
    path = path.resolve()
    with atomic_file(path, mode=0o600, durable=True) as new:
        keys = list(read_keys(path)) if path.exists() else []
        yield keys
        value = {"format": 1, "keys": [key.model_dump(mode="json") for key in keys]}
        new.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _by_id(keys: Sequence[ApiKey]) -> dict[str, ApiKey]:
    return {key.id: key for key in keys}


def _ticket_mac(key: ApiKey, expires: int) -> bytes:
    message = f"eolgul report ticket 1\n{key.id}\n{expires}".encode()
    return hmac.new(bytes.fromhex(key.sha256), message, hashlib.sha256).digest()


def _signature(path: Path) -> tuple[int, int, int] | None:
    """A value that changes with the file. `stat` follows the link through which Kubernetes replaces a secret."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
