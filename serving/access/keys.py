"""API keys: who calls, for which tenant, and what that key may do.

A key is `eolgul_<key id>_<secret>`. The file holds its SHA-256 and nothing that opens a door. A slow password hash
would add nothing: it exists because people choose guessable passwords, while the secret is 32 bytes of the system's
randomness, which no one can enumerate; and it would cost every request its 50 ms.
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
TICKET_S = 300
_SECRET_BYTES = 32
_REREAD_S = 2.0
_KEY = re.compile(r"eolgul_([A-Za-z0-9-]{1,64})_([A-Za-z0-9_-]{43,128})")
_TICKET = re.compile(r"([A-Za-z0-9-]{1,64})\.([0-9]{1,12})\.([0-9a-f]{64})")
_NOBODY = bytes(32)  # compared with when there is no such key, so that both ways take the same time
_REFUSAL = "this needs a valid API key: send `Authorization: Bearer eolgul_…`"

Scope = Literal["verify", "detect", "embed", "identify", "enroll", "gallery"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request. `requests_per_minute` is the key's own limit, None for the service's default."""

    tenant: str
    key_id: str
    scopes: frozenset[str]
    requests_per_minute: int | None = None

    def require(self, *scopes: str) -> None:
        """RejectionError `forbidden`, naming the scope, unless the key has every one of `scopes`."""
        for scope in scopes:
            if scope not in self.scopes:
                raise RejectionError(f"this API key lacks the scope {scope}", "forbidden")


EVERYONE = Caller("public", "open", frozenset(SCOPES))


class ApiKey(BaseModel):
    """One entry of the keys file. `sha256` is of the whole key as it is sent, hex; `expires` has a time zone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
    tenant: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...] = Field(min_length=1)
    expires: AwareDatetime | None = None
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    note: str = ""

    def valid(self, now: datetime) -> bool:
        return self.expires is None or now < self.expires

    @property
    def caller(self) -> Caller:
        return Caller(self.tenant, self.id, frozenset(self.scopes), self.requests_per_minute)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal[1]
    keys: tuple[ApiKey, ...]

    @field_validator("keys")
    @classmethod
    def _distinct(cls, keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        for one, count in Counter(key.id for key in keys).items():
            if count > 1:
                raise ValueError(f"the key id {one} is there twice")
        return keys


class ApiKeys:
    """The keys of a file, which is read again when it changes. Every worker has its own; a request costs no I/O but one
    `stat` each two seconds.

    A changed file that cannot be used leaves the keys as they were and says so once in the log: a slip in an editor
    must not lock everyone out. To withdraw all keys, write an empty list; removing the file withdraws none.
    """

    def __init__(self, path: Path | None, keys: Mapping[str, ApiKey]) -> None:
        self._path, self._keys = path, keys
        self._seen = _signature(path) if path else None
        self._looked = time.monotonic()

    @classmethod
    def read(cls, path: Path) -> ApiKeys:
        """The keys of a file. InputError in one sentence when it cannot be used."""
        keys = cls(path, {})  # its signature is taken before it is read, so that a change meanwhile is noticed
        keys._keys = _by_id(read_keys(path))
        return keys

    @classmethod
    def open_to_all(cls) -> ApiKeys:
        """No authentication: everyone is the tenant `public` with every scope."""
        return cls(None, {})

    @property
    def open(self) -> bool:
        return self._path is None

    def authenticate(self, header: str | None) -> Caller:
        """The value of `Authorization` → who calls. RejectionError `unauthorized`, in one sentence for every reason:
        what exactly was wrong would help only someone who guesses."""
        if self._path is None:
            return EVERYONE
        self._refresh()
        scheme, _, sent = (header or "").strip().partition(" ")
        match = _KEY.fullmatch(sent.strip()) if scheme.lower() == "bearer" else None
        key = self._keys.get(match[1]) if match else None  # the id is no secret
        digest = hashlib.sha256(sent.strip().encode("utf-8", "replace")).digest()
        equal = hmac.compare_digest(digest, bytes.fromhex(key.sha256) if key else _NOBODY)
        if key is None or not equal or not key.valid(datetime.now(UTC)):
            raise RejectionError(_REFUSAL, "unauthorized")
        return key.caller

    def report_ticket(self, key_id: str) -> str:
        """A cookie's value that opens the report page for `TICKET_S` seconds, since a browser that follows a link
        sends no header. It is an HMAC-SHA256 keyed by the key's stored hash: all workers can check it and it ends
        with the key. Empty when the service is open to all. RejectionError `unauthorized` for an unknown key."""
        if self._path is None:
            return ""
        key = self._keys.get(key_id)
        if key is None:
            raise RejectionError(_REFUSAL, "unauthorized")
        expires = int(time.time()) + TICKET_S
        return f"{key_id}.{expires}.{_ticket_mac(key, expires).hex()}"

    def check_ticket(self, ticket: str | None) -> Caller:
        """Whose ticket it is, without any scope: a stolen one reads the report and nothing else.

        RejectionError `unauthorized` for one that is forged, has ended, or whose key was withdrawn."""
        if self._path is None:
            return EVERYONE
        self._refresh()
        match = _TICKET.fullmatch(ticket or "")
        key = self._keys.get(match[1]) if match else None
        if match is None or key is None or not key.valid(datetime.now(UTC)):
            raise RejectionError(_REFUSAL, "unauthorized")
        expires = int(match[2])
        equal = hmac.compare_digest(bytes.fromhex(match[3]), _ticket_mac(key, expires))
        if not equal or expires < time.time():
            raise RejectionError(_REFUSAL, "unauthorized")
        return Caller(key.tenant, key.id, frozenset(), key.requests_per_minute)

    def _refresh(self) -> None:
        if self._path is None or time.monotonic() - self._looked < _REREAD_S:
            return
        self._looked = time.monotonic()
        signature = _signature(self._path)
        if signature == self._seen:
            return
        self._seen = signature  # before reading: a broken file is complained about once, not every two seconds
        try:
            self._keys = _by_id(read_keys(self._path))
        except InputError as error:
            logger.error("the API keys stay as they were: %s", error)
        else:
            logger.info("%s: %d API keys", self._path.name, len(self._keys))


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The entries of a keys file, in its order. InputError names the file and the place in it; it quotes no value."""
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
    """Make a key and add it to the file (made, mode 0600, if absent). Returns the key, which is nowhere else, and its
    entry. InputError for an unknown scope or a malformed tenant."""
    for scope in scopes:
        if scope not in SCOPES:
            raise InputError(f"scope {scope!r}: expected one of {', '.join(SCOPES)}")
    key_id = secrets.token_hex(6)
    text = f"eolgul_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    entry = {
        "id": key_id,
        "tenant": tenant,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "scopes": sorted(set(scopes), key=SCOPES.index),
        "expires": expires,
        "requests_per_minute": requests_per_minute,
        "note": note,
    }
    try:
        made = ApiKey.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise InputError(f"{str(first['loc'][0]).replace('_', ' ')} of the new key: {first['msg']}") from None
    with _changing(path) as keys:
        keys.append(made)
    return text, made


def revoke_key(path: Path, key_id: str) -> ApiKey:
    """Take a key out of the file; running services stop taking it within two seconds. InputError if it is not there."""
    with _changing(path) as keys:
        for key in keys:
            if key.id == key_id:
                keys.remove(key)
                return key
        raise InputError(f"{path}: has no API key with the id {key_id}")


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
    """What changes when the file does; a Kubernetes secret changes by a link, which `stat` follows."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
