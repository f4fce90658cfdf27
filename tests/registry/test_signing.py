"""Signatures: what a trusted key signed is taken, everything else is refused in a sentence; and going back."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.registry import evaluation, history, model

from eolgul import storage
from eolgul.errors import InputError
from eolgul.promote.step import promote, roll_back
from eolgul.registry.signing import SigningKey, TrustedKeys, public_file
from eolgul.registry.store import download, read_production, signature_uri


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "registry")
    return f"{request.getfixturevalue('s3')}/signed-{tmp_path.name}"


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.new(tmp_path / "keys" / "sign.pem")


@pytest.fixture
def trusted(key: SigningKey, tmp_path: Path) -> TrustedKeys:
    return TrustedKeys.read(public_file(tmp_path / "keys" / "sign.pem"))


def publish(tmp_path: Path, place: str, seed: int, fnmr: float, key: SigningKey | None = None) -> str:
    made = model(tmp_path / f"m{seed}", seed)
    measured = evaluation(tmp_path / f"e{seed}", made, fnmr=fnmr)
    decided = promote(made, measured, place, signing_key=key)
    assert decided.promoted, decided.reasons
    return decided.digest


def test_a_signed_model_is_downloaded(place: str, tmp_path: Path, key: SigningKey, trusted: TrustedKeys) -> None:
    digest = publish(tmp_path, place, 1, 0.2, key)
    assert download(place, digest, trusted).digest == digest
    document = json.loads(storage.read_bytes(signature_uri(place, digest)) or b"")
    assert document.keys() == {"format", "digest", "algorithm", "key_id", "signature"}
    assert (document["digest"], document["algorithm"], document["key_id"]) == (digest, "ed25519", key.key_id)


def test_an_unsigned_model_is_refused_until_it_is_signed(
    place: str, tmp_path: Path, key: SigningKey, trusted: TrustedKeys
) -> None:
    digest = publish(tmp_path, place, 1, 0.2)
    with pytest.raises(InputError, match="not signed"):
        download(place, digest, trusted)
    assert download(place, digest).digest == digest  # where no key is asked for
    again = promote(tmp_path / "m1", tmp_path / "e1", place, signing_key=key)
    assert again.reasons == ("this model is in production already",)
    assert download(place, digest, trusted).digest == digest


def test_nothing_unsigned_is_fetched(tmp_path: Path, trusted: TrustedKeys) -> None:
    with pytest.raises(InputError, match="not signed"):  # not: no such file or folder
        download(str(tmp_path / "registry"), "a" * 64, trusted)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d, other: {**d, "signature": other["signature"]}, "does not match"),
        (lambda d, other: other, "not a trusted key"),
        (lambda d, other: {**other, "key_id": d["key_id"]}, "does not match"),
        (lambda d, other: {**d, "signature": "?"}, "expected a signature"),
        (lambda d, other: {**d, "algorithm": "none"}, "by ed25519"),
        (lambda d, other: {k: v for k, v in d.items() if k != "key_id"}, "expected a signature"),
        (lambda d, other: [], "expected a signature"),
        (lambda d, other: {**d, "signature": ""}, "does not match"),
    ],
    ids=["other-bytes", "other-key", "borrowed-id", "no-base64", "algorithm", "no-key-id", "no-object", "empty"],
)
def test_a_wrong_signature_is_refused(change, says, tmp_path: Path, key: SigningKey, trusted: TrustedKeys) -> None:
    digest = "a" * 64
    other = json.loads(SigningKey.new(tmp_path / "other.pem").sign(digest))
    data = json.dumps(change(json.loads(key.sign(digest)), other)).encode()
    with pytest.raises(InputError, match=says) as caught:
        trusted.check(digest, data, "the/place")
    assert str(caught.value).startswith("the/place") and "\n" not in str(caught.value)


def test_the_signature_of_another_model_is_refused(key: SigningKey, trusted: TrustedKeys) -> None:
    with pytest.raises(InputError, match="signs the model"):
        trusted.check("a" * 64, key.sign("b" * 64), "x")
    relabelled = json.loads(key.sign("b" * 64)) | {"digest": "a" * 64}
    with pytest.raises(InputError, match="does not match"):
        trusted.check("a" * 64, json.dumps(relabelled).encode(), "x")


def test_every_bit_of_a_signature_counts(key: SigningKey, trusted: TrustedKeys) -> None:
    document = json.loads(key.sign("a" * 64))
    raw = base64.b64decode(document["signature"])
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        forged = document | {"signature": base64.b64encode(changed).decode()}
        with pytest.raises(InputError, match="does not match"):
            trusted.check("a" * 64, json.dumps(forged).encode(), "x")


def test_keys_rotate(key: SigningKey, tmp_path: Path) -> None:
    new = SigningKey.new(tmp_path / "new.pem")
    both = tmp_path / "trusted.pem"
    both.write_bytes(b"# since May\n" + new.public_pem() + b"\n# before\n" + key.public_pem())
    keys = TrustedKeys.read(both)
    assert keys.check("a" * 64, new.sign("a" * 64), "x") == new.key_id
    assert keys.check("a" * 64, key.sign("a" * 64), "x") == key.key_id
    both.write_bytes(new.public_pem())
    with pytest.raises(InputError, match="not a trusted key"):
        TrustedKeys.read(both).check("a" * 64, key.sign("a" * 64), "x")


def test_key_files(key: SigningKey, tmp_path: Path) -> None:
    private = tmp_path / "keys" / "sign.pem"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert SigningKey.read(private).key_id == key.key_id
    with pytest.raises(InputError, match="already"):
        SigningKey.new(private)
    with pytest.raises(InputError, match="cannot be read"):
        SigningKey.read(tmp_path / "none")
    with pytest.raises(InputError, match="Ed25519 private key"):
        SigningKey.read(public_file(private))
    with pytest.raises(InputError, match="at least one"):
        TrustedKeys.read(private)
    curve = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    foreign = tmp_path / "ec.pem"
    foreign.write_bytes(curve.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    with pytest.raises(InputError, match="expected an Ed25519 private key, not"):
        SigningKey.read(foreign)
    public = curve.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    foreign.write_bytes(key.public_pem() + public)
    with pytest.raises(InputError, match="key 2 is a"):
        TrustedKeys.read(foreign)


def test_going_back(place: str, tmp_path: Path, key: SigningKey, trusted: TrustedKeys) -> None:
    first, second = publish(tmp_path, place, 1, 0.5), publish(tmp_path, place, 2, 0.1)
    back = roll_back(place, first[:10], signing_key=key)
    assert back.promoted and back.digest == first
    production = read_production(place)
    assert production is not None and (production.digest, production.previous) == (first, second)
    assert history(place)[-1]["digest"] == first and history(place)[-1]["against"] == second
    assert download(place, first, trusted).digest == first
    assert roll_back(place, second).digest == second  # and forth
    before = len(history(place))
    assert roll_back(place, second).reasons == ("this model is in production already",)
    assert len(history(place)) == before


def test_a_new_key_signs_what_is_in_production(
    place: str, tmp_path: Path, key: SigningKey, trusted: TrustedKeys
) -> None:
    with pytest.raises(InputError, match="no model has been promoted yet"):
        roll_back(place, "production", signing_key=key)
    digest = publish(tmp_path, place, 1, 0.5)
    roll_back(place, digest, signing_key=key)
    new = SigningKey.new(tmp_path / "new.key")
    only_new = TrustedKeys.read(tmp_path / "new.key.pub")
    pointer, before = read_production(place), history(place)
    with pytest.raises(InputError, match="not a trusted key"):
        download(place, digest, only_new)
    signed = roll_back(place, "production", signing_key=new)
    assert signed.digest == digest and signed.reasons == (
        f"this model is in production already; signed with the key {new.key_id}",
    )
    assert download(place, digest, only_new).digest == digest
    with pytest.raises(InputError, match="not a trusted key"):
        download(place, digest, trusted)
    kept = roll_back(place, "production", reason="because").reasons
    assert kept == ("this model is in production already; the reason is not recorded, since the pointer stays",)
    assert (read_production(place), history(place)) == (pointer, before)


def test_going_back_to_what_was_never_there(tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    first, _ = publish(tmp_path, place, 1, 0.5), publish(tmp_path, place, 2, 0.1)
    pointer = (tmp_path / "registry" / "production.json").read_bytes()
    for beginning in ("zz", ""):
        with pytest.raises(InputError, match=f"expected one of .*{first[:12]}"):
            roll_back(place, beginning)
    file = tmp_path / "registry" / "models" / first / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="sha256"):
        roll_back(place, first)
    assert (tmp_path / "registry" / "production.json").read_bytes() == pointer


def test_a_candidate_that_failed_is_no_place_to_go_back_to(tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    publish(tmp_path, place, 1, 0.1)
    worse = model(tmp_path / "m2", 2)
    refused = promote(worse, evaluation(tmp_path / "e2", worse, fnmr=0.5), place)
    assert not refused.promoted
    with pytest.raises(InputError, match="0 promoted models"):
        roll_back(place, refused.digest)


def eolgul(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eolgul", *words]
    environment = dict(os.environ) | environment
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.process
def test_the_commands(tmp_path: Path) -> None:
    private, place = tmp_path / "k.pem", tmp_path / "registry"
    made = json.loads(eolgul("signing-key", "new", str(private)).stdout)
    a, b = model(tmp_path / "a", 1), model(tmp_path / "b", 2)
    ea, eb = evaluation(tmp_path / "ea", a, fnmr=0.5), evaluation(tmp_path / "eb", b, fnmr=0.1)
    first = json.loads(eolgul("promote", str(a), str(ea), "--registry", str(place)).stdout)
    second = json.loads(
        eolgul("promote", str(b), str(eb), "--registry", str(place), EOLGUL_SIGNING_KEY_FILE=str(private)).stdout
    )
    assert first["promoted"] and second["promoted"]
    trusted = TrustedKeys.read(Path(made["public"]))
    assert download(str(place), second["digest"], trusted).digest == second["digest"]
    back = eolgul("promote", "--to", first["digest"][:8], "--registry", str(place), "--signing-key", str(private))
    assert json.loads(back.stdout)["digest"] == first["digest"]
    assert download(str(place), first["digest"], trusted).digest == first["digest"]
    for words in (["--to", "zz"], [str(a)], [str(a), str(ea), "--to", "aa"], ["--to", "aa", "--force"]):
        wrong = eolgul("promote", *words, "--registry", str(place))
        assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and wrong.stderr.startswith("eolgul: ")
