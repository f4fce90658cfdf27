"""Encrypt values for Redis with AES-256-GCM; each value carries the id of its key, so that keys can be rotated.

A file of keys has one key per line, `<key id>:<base64 of 32 bytes>`. The first key is the active one, which seals; all of
them open. To rotate: `eolgul gallery new-key`, restart, `eolgul gallery reseal`, remove the old line. `#` begins a comment.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from eolgul.errors import InputError
from eolgul.files import atomic_file

_MAGIC = b"eolgul-sealed-1\n"
_KEY_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 12, 16
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Keyring:
    """Named AES-256-GCM keys (NIST SP 800-38D), the first of them active.

    Nonces are 96 random bits, so a key should seal fewer than 2^32 values, more than years of enrolments need.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """`keys`: key id → 32 bytes, the active one first. ValueError if it is empty or a key has another size."""
        if not keys or any(len(key) != _KEY_BYTES for key in keys.values()):
            raise ValueError(f"a keyring needs at least one key, each of {_KEY_BYTES} bytes")
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self.active = next(iter(keys))

    @classmethod
    def read(cls, path: Path) -> Keyring:
        """Read a file of keys. The InputError names the line, never its content."""
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as a file of keys: {_reason(error)}") from error
        keys: dict[str, bytes] = {}
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            key_id, colon, encoded = text.partition(":")
            try:
                key = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                key = b""
            if not colon or not _KEY_ID.fullmatch(key_id) or len(key) != _KEY_BYTES:
                raise InputError(
                    f"{path}, line {number}: expected `<key id>:<base64 of {_KEY_BYTES} bytes>`, "
                    "the key id of up to 64 letters, digits, `.`, `_`, `-`"
                )
            if key_id in keys:
                raise InputError(f"{path}, line {number}: the key id {key_id} appears twice, expected distinct ids")
            keys[key_id] = key
        if not keys:
            raise InputError(f"{path}: holds no key; expected lines `<key id>:<base64 of {_KEY_BYTES} bytes>`")
        return cls(keys)

    @classmethod
    def ephemeral(cls) -> Keyring:
        """A keyring with one random key, which ends with the process: nobody can open its values later."""
        return cls({f"ephemeral-{secrets.token_hex(4)}": secrets.token_bytes(_KEY_BYTES)})

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """Encrypt, authenticated together with `associated`.

        Returns:
            Magic, length of the key id (1 byte), key id, nonce (12 bytes), ciphertext with tag.
        """
        header = _header(self.active)
        nonce = os.urandom(_NONCE_BYTES)
        return header + nonce + self._ciphers[self.active].encrypt(nonce, plaintext, header + associated)

    def open(self, value: bytes, associated: bytes) -> bytes | None:
        """Decrypt a value that a key of this ring sealed with the same `associated`; None for any other value."""
        key_id = key_id_of(value)
        cipher = self._ciphers.get(key_id) if key_id else None
        if key_id is None or cipher is None:
            return None
        header = _header(key_id)
        start = len(header) + _NONCE_BYTES
        if len(value) < start + _TAG_BYTES:
            return None
        try:
            return cipher.decrypt(value[len(header) : start], value[start:], header + associated)
        except InvalidTag:
            return None

    def is_stale(self, value: bytes) -> bool:
        """Whether another key than the active one sealed the value."""
        return key_id_of(value) != self.active


def key_id_of(value: bytes) -> str | None:
    """The key id that a sealed value names; None if it is not a sealed value."""
    start = len(_MAGIC) + 1
    if not value.startswith(_MAGIC) or len(value) < start:
        return None
    name = value[start : start + value[start - 1]]
    text = name.decode("ascii", "replace")
    return text if len(name) == value[start - 1] and _KEY_ID.fullmatch(text) else None


def new_line(key_id: str | None = None) -> str:
    """Create a line with a new random key for a file of keys. InputError if the key id is not valid."""
    key_id = key_id or f"k{secrets.token_hex(4)}"
    if not _KEY_ID.fullmatch(key_id):
        raise InputError("the key id is not valid, expected up to 64 letters, digits, `.`, `_`, `-`")
    return f"{key_id}:{base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}"


def add_key(path: Path, key_id: str | None = None) -> str:
    """Insert a new key as the first one of a file of keys.

    The file is created, readable only by its owner, if it is absent.

    Returns:
        The id of the key.

    Raises:
        InputError: The id is not valid, or the file already has it.
    """
    line = new_line(key_id)
    new_id = line.partition(":")[0]
    with atomic_file(path, mode=0o600) as new:  # another key that is added meanwhile waits
        if path.exists() and new_id in Keyring.read(path)._ciphers:
            raise InputError(f"{path}: already has a key with the id {new_id}, expected a new id")
        before = path.read_text(encoding="ascii") if path.exists() else ""
        new.write_text(f"{line}\n{before}", encoding="ascii")
    return new_id


def _header(key_id: str) -> bytes:
    return _MAGIC + bytes([len(key_id)]) + key_id.encode("ascii")


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or "unreadable") if isinstance(error, OSError) else "not plain ASCII text"
