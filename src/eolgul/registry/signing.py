"""Signatures of published models: Ed25519 over the digest, kept beside the model, apart from it.

A digest says that a model is whole; a signature says who published it. Whoever can write to the registry can replace a
model with its digest and the pointer to it, but cannot sign without the key, which need not lie near the registry.
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
_PURPOSE = b"eolgul model signature 1\n"  # so that a signature made for another purpose is never taken for a model's
_END = b"-----END PUBLIC KEY-----"


class SigningKey:
    """The private half, which `promote` signs with."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.key_id = _key_id(key.public_key())

    @classmethod
    def read(cls, path: Path) -> SigningKey:
        """Read an unencrypted PKCS #8 PEM file. InputError when it is not there or holds no Ed25519 key."""
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
        """Make a key: `path` holds the private half (mode 0600), `path`.pub the public one. InputError when either is
        there already: a key that is lost cannot be made again."""
        made = cls(Ed25519PrivateKey.generate())
        private = made._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = public_file(path)
        if public.exists():
            raise InputError(f"{public}: is there already; choose another name for the signing key")
        _write_new(path, private, 0o600)
        _write_new(public, made.public_pem(), 0o644)
        return made

    def public_pem(self) -> bytes:
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, digest: str) -> bytes:
        """The signature file of a model: JSON with format, digest, algorithm, key_id and signature (base64)."""
        signature = base64.b64encode(self._key.sign(_message(digest))).decode()
        value = {"format": FORMAT, "digest": digest, "algorithm": ALGORITHM}
        return canonical_json(value | {"key_id": self.key_id, "signature": signature})


class TrustedKeys:
    """The public halves that serving trusts; several, so that a new key can be trusted before the old one goes."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = dict(keys)

    @classmethod
    def read(cls, path: Path) -> TrustedKeys:
        """Read a file of one or more public keys in PEM, one after the other, any text between them. InputError when
        there is none or one is no Ed25519 key."""
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
                raise InputError(f"{path}: key {number} is no public key in PEM") from error
            if not isinstance(key, Ed25519PublicKey):
                raise InputError(f"{path}: key {number} is a {type(key).__name__}, expected an Ed25519 public key")
            keys[_key_id(key)] = key
        return cls(keys)

    def check(self, digest: str, signature: bytes | None, where: str) -> str:
        """The id of the trusted key that signed the model `digest`. `signature` is the bytes of its signature file,
        None when there is none, and `where` the place of it. InputError, one sentence, when nobody trusted signed."""
        if signature is None:
            raise InputError(f"{where}: missing, the model {digest[:12]} is not signed but a trusted key is asked for")
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
            raise InputError(f"{where}: signed by key {key_id[:16]!r}, which is not a trusted one")
        if signed != digest:
            raise InputError(f"{where}: signs another model ({signed[:12]!r}) than {digest[:12]}")
        try:
            key.verify(raw, _message(digest))
        except InvalidSignature:
            raise InputError(f"{where}: the signature does not fit the model {digest[:12]} and key {key_id}") from None
        return key_id


def public_file(private: Path) -> Path:
    """Where the public half of a signing key lies."""
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
        raise InputError(f"{path}: is there already; a signing key is never overwritten") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
