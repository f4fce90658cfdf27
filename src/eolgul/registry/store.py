"""The model registry: a folder or an S3 prefix.

`models/<digest>/…`, immutable models; `production.json`, the pointer to the model that serves; `reference.json`, the model
that no later one may fall behind;
`signatures/<digest>.json`, the signature of a model that is signed; `history.jsonl`, one line per decision.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from eolgul import storage
from eolgul.artifact import canonical_json
from eolgul.errors import InputError, one_line
from eolgul.model.package import ModelPackage
from eolgul.registry.signing import TrustedKeys

POINTER = "production.json"
REFERENCE = "reference.json"
HISTORY = "history.jsonl"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Production:
    """The pointer: which model serves, since when (UTC, ISO 8601), which one served before, and why it was promoted."""

    digest: str
    promoted_at: str
    previous: str | None
    reasons: tuple[str, ...]


def read_production(registry: str) -> Production | None:
    """Read the registry's pointer; None when no model was ever promoted.

    Raises:
        InputError: The pointer is malformed.
    """

    def parse(value: Any) -> Production:
        return Production(
            checked_digest(value["digest"]),
            str(value["promoted_at"]),
            value.get("previous"),
            tuple(value.get("reasons", ())),
        )

    return _read(storage.join(registry, POINTER), parse, "a production pointer with a sha256 digest")


def read_reference(registry: str) -> str | None:
    """Read the digest of the registry's reference model; None when there is none yet.

    Raises:
        InputError: The file is malformed.
    """
    return _read(storage.join(registry, REFERENCE), lambda value: checked_digest(value["digest"]), "a sha256 digest")


def _read(where: str, parse: Callable[[Any], T], expected: str) -> T | None:
    """What a JSON file of the registry says; None where there is none."""
    data = storage.read_bytes(where)
    if data is None:
        return None
    try:
        return parse(json.loads(data))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: expected {expected} ({one_line(error)})") from error


def write_reference(registry: str, digest: str) -> None:
    """Make a published model the reference."""
    storage.write_bytes(storage.join(registry, REFERENCE), canonical_json({"digest": digest}))


def model_uri(registry: str, digest: str) -> str:
    """Return the place of a published model."""
    return storage.join(registry, "models", digest)


def signature_uri(registry: str, digest: str) -> str:
    """Return the place of a published model's signature."""
    return storage.join(registry, "signatures", f"{digest}.json")


def download(registry: str, digest: str, trusted: TrustedKeys | None = None) -> ModelPackage:
    """Download a model to the local disk and check every file.

    With `trusted` the signature is checked first, so that no unsigned model is downloaded.

    Raises:
        InputError: A file is missing or damaged, the model has another digest, or no trusted key signed it.
    """
    if trusted is not None:
        where = signature_uri(registry, digest)
        trusted.check(digest, storage.read_bytes(where), where)
    package = ModelPackage.open(storage.fetch(model_uri(registry, digest)), check="sha256")
    if package.digest != digest:
        raise InputError(f"{model_uri(registry, digest)}: its digest is {package.digest}, expected {digest}")
    return package


def point(registry: str, production: Production) -> None:
    """Replace the production pointer in one atomic write."""
    storage.write_bytes(storage.join(registry, POINTER), canonical_json(asdict(production)))


def remember(registry: str, entry: Mapping[str, Any]) -> None:
    """Append a decision to `history.jsonl`."""
    where = storage.join(registry, HISTORY)
    before = storage.read_bytes(where) or b""
    line = json.dumps(entry, ensure_ascii=False, sort_keys=True)
    storage.write_bytes(where, before + line.encode() + b"\n")


def checked_digest(value: object) -> str:
    """Return `value` when it is a sha256 digest in hexadecimal, else raise ValueError."""
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ValueError(f"{value!r} is not a sha256 digest")
    return value
