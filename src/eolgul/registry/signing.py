"""Signatures of published models: Ed25519 over the digest, in a file of its own in the registry.

A digest shows that a model is whole; a signature shows who published it. Whoever can write to the registry can replace a
model, its digest and the pointer to it, but cannot sign without the key, which is kept elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from eolgul.artifact import canonical_json
from eolgul.errors import InputError

FORMAT = 1
ALGORITHM = "ed25519"
_PURPOSE = b"eolgul model signature 1\n"  # a signature for another purpose is not valid for a model
_END = b"-----END PUBLIC KEY-----"


class SigningKey:
    """The private key with which `promote` signs."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.key_id = _key_id(key.public_key())

    @classmethod
    def read(cls, path: Path) -> SigningKey:
        """Read an unencrypted PKCS #8 PEM file.

        Raises:
            InputError: The file is missing or is not an Ed25519 key.
        """
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise InputError(f"{path}: the signing key cannot be read ({error.strerror})") from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InputError(f"{path}: expected an unencrypted Ed25519 private key in PEM") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise InputError(f"{path}: expected an Ed25519 private key, not {type(key).__name__}")
        return cls(key)

    @classmethod
    def new(cls, path: Path) -> SigningKey:
        """Generate a key and write the private key to `path` (mode 0600) and the public key to `path`.pub.

        Raises:
            InputError: Either file exists: an overwritten key would be lost.
        """
        key = cls(Ed25519PrivateKey.generate())
        private = key._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = public_file(path)
        if public.exists():
            raise InputError(f"{public}: exists already; choose another name for the signing key")
        _write_new(path, private, 0o600)
        _write_new(public, key.public_pem(), 0o644)
        return key

    def public_pem(self) -> bytes:
        """Return the public key as PEM."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, digest: str) -> bytes:
        """Return the signature file of a model: JSON with format, digest, algorithm, key_id and signature (base64)."""
        signature = base64.b64encode(self._key.sign(_message(digest))).decode()
        value = {"format": FORMAT, "digest": digest, "algorithm": ALGORITHM}
        return canonical_json(value | {"key_id": self.key_id, "signature": signature})


class TrustedKeys:
    """The public keys that serving trusts; several, so that a new key can be trusted before the old one is removed."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = dict(keys)

    @classmethod
    def read(cls, path: Path) -> TrustedKeys:
        """Read a file of one or more public keys in PEM, with any text between them.

        Raises:
            InputError: The file is missing, contains no key, or one that is not an Ed25519 key.
        """
        try:
            blocks = path.read_bytes().split(_END)[:-1]
        except OSError as error:
            raise InputError(f"{path}: the trusted keys cannot be read ({error.strerror})") from error
        if not blocks:
            raise InputError(f"{path}: expected at least one Ed25519 public key in PEM")
        keys = {}
        for number, block in enumerate(blocks, 1):
            try:
                key = serialization.load_pem_public_key(block + _END)
            except (ValueError, UnsupportedAlgorithm) as error:
                raise InputError(f"{path}: key {number} is not a public key in PEM") from error
            if not isinstance(key, Ed25519PublicKey):
                raise InputError(f"{path}: key {number} is a {type(key).__name__}, expected an Ed25519 public key")
            keys[_key_id(key)] = key
        return cls(keys)

    def check(self, digest: str, signature: bytes | None, where: str) -> str:
        """Return the id of the trusted key that signed a model.

        Args:
            digest: The model's digest.
            signature: The bytes of its signature file, None without one.
            where: The place of the signature file, for messages.

        Raises:
            InputError: No trusted key signed the model.
        """
        if signature is None:
            raise InputError(
                f"{where}: missing; the model {digest[:12]} is not signed, expected a signature by a trusted key"
            )
        try:
            value: Any = json.loads(signature)
            known = (value["format"], value["algorithm"]) == (FORMAT, ALGORITHM)
            key_id, signed = str(value["key_id"]), str(value["digest"])
            raw = base64.b64decode(value["signature"], validate=True)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{where}: expected a signature with format, digest, algorithm, key_id") from error
        if not known:
            raise InputError(f"{where}: expected a signature of format {FORMAT} by {ALGORITHM}")
        key = self._keys.get(key_id)
        if key is None:
            raise InputError(f"{where}: signed by key {key_id[:16]!r}, which is not a trusted key")
        if signed != digest:
            raise InputError(f"{where}: signs the model {signed[:12]!r}, expected {digest[:12]!r}")
        try:
            key.verify(raw, _message(digest))
        except InvalidSignature:
            raise InputError(
                f"{where}: the signature does not match the model {digest[:12]} and the key {key_id}"
            ) from None
        return key_id


def public_file(private: Path) -> Path:
    """Return the path of the public key that belongs to a private key's path."""
    return private.with_name(private.name + ".pub")


def _message(digest: str) -> bytes:
    return _PURPOSE + digest.encode()


def _key_id(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise InputError(f"{path}: exists already; a signing key is never overwritten") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
