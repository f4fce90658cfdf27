"""Keys for what is kept in Redis: AES-256-GCM with a key id in front, so that keys can be rotated.

A file of keys has a line a key, `<key id>:<base64 of 32 bytes>`; the first is the active one and seals, all of them
open. To rotate: `eolgul gallery new-key`, restart, `eolgul gallery reseal`, then drop the old line. `#` begins a comment.
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

    Nonces are random, 96 bits: a key should seal fewer than 2^32 values, which years of enrolments do not reach.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """`keys`: key id → 32 bytes, the active one first. ValueError for none, or a key of another size."""
        if not keys or any(len(key) != _KEY_BYTES for key in keys.values()):
            raise ValueError(f"a keyring needs at least one key, each of {_KEY_BYTES} bytes")
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self.active = next(iter(keys))

    @classmethod
    def read(cls, path: Path) -> Keyring:
        """The keys of a file as described above. InputError that names the line, never what stands in it."""
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
                raise InputError(
                    f"{path}, line {number}: the key id {key_id} is there already; every key needs its own"
                )
            keys[key_id] = key
        if not keys:
            raise InputError(f"{path}: holds no key; expected lines `<key id>:<base64 of {_KEY_BYTES} bytes>`")
        return cls(keys)

    @classmethod
    def ephemeral(cls) -> Keyring:
        """One random key that nobody else knows: what it sealed is lost with the process."""
        return cls({f"ephemeral-{secrets.token_hex(4)}": secrets.token_bytes(_KEY_BYTES)})

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """magic, length of the key id (1 byte), key id, nonce (12), ciphertext with tag; bound to `associated`."""
        header = _header(self.active)
        nonce = os.urandom(_NONCE_BYTES)
        return header + nonce + self._ciphers[self.active].encrypt(nonce, plaintext, header + associated)

    def open(self, value: bytes, associated: bytes) -> bytes | None:
        """What was sealed with this `associated` by a key of this ring; None for anything else."""
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

    def stale(self, value: bytes) -> bool:
        """Whether the value was sealed by another key than the active one."""
        return key_id_of(value) != self.active


def key_id_of(value: bytes) -> str | None:
    """The id of the key that a sealed value says it was sealed with; None where it is no sealed value."""
    start = len(_MAGIC) + 1
    if not value.startswith(_MAGIC) or len(value) < start:
        return None
    name = value[start : start + value[start - 1]]
    text = name.decode("ascii", "replace")
    return text if len(name) == value[start - 1] and _KEY_ID.fullmatch(text) else None


def new_line(key_id: str | None = None) -> str:
    """A line with a fresh random key for a file of keys. InputError for an impossible key id."""
    key_id = key_id or f"k{secrets.token_hex(4)}"
    if not _KEY_ID.fullmatch(key_id):
        raise InputError("a key id has up to 64 letters, digits, `.`, `_`, `-`")
    return f"{key_id}:{base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}"


def add_key(path: Path, key_id: str | None = None) -> str:
    """Put a fresh key first in a file of keys, which is made, readable by its owner only, where there is none. Returns
    its id. InputError for an impossible id or one that the file has."""
    line = new_line(key_id)
    made = line.partition(":")[0]
    with atomic_file(path, mode=0o600) as new:  # another key that is added meanwhile waits
        if path.exists() and made in Keyring.read(path)._ciphers:
            raise InputError(f"{path}: the key id {made} is there already; every key needs its own")
        before = path.read_text(encoding="ascii") if path.exists() else ""
        new.write_text(f"{line}\n{before}", encoding="ascii")
    return made


def _header(key_id: str) -> bytes:
    return _MAGIC + bytes([len(key_id)]) + key_id.encode("ascii")


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or "unreadable") if isinstance(error, OSError) else "it is not plain ASCII text"
