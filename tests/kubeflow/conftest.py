"""A Kubeflow Pipelines API in this process, and a small pipeline to send to it."""
# No `from __future__ import annotations`: KFP reads the annotations as types, not as strings.

import datetime
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kfp import compiler, dsl, kubernetes
from support.kubeflow import Kubeflow, kubeflow

from eolgul.kubeflow.access import Access
from eolgul.kubeflow.connection import Connection
from eolgul.kubeflow.runs import Compiled, Request


@pytest.fixture(autouse=True)
def no_kubeflow_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tests meet no address, token or kubeconfig of the person who runs them."""
    for name in [name for name in os.environ if name.startswith(("KF_PIPELINES", "KFP_", "KUBERNETES_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "no-kubeconfig"))


@pytest.fixture
def server() -> Iterator[Kubeflow]:
    with kubeflow() as state:
        yield state


@pytest.fixture
def connection(server: Kubeflow) -> Connection:
    return Connection(Access(host=server.address, timeout=5))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1 with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubeflow.test")])
    today = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *form) + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


@dsl.component(base_image="registry.example/eolgul/extract@sha256:" + "a" * 64)
def one_step(number: int, words: list) -> str:
    return f"{number} {words}"


@dsl.pipeline(name="small")
def small(number: int = 3, words: list = ["a"]) -> None:  # noqa: B006
    task = one_step(number=number, words=words)
    kubernetes.use_secret_as_env(task, "a-secret", {"KEY": "KEY"})


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    file = tmp_path_factory.mktemp("pipeline") / "small.yaml"
    compiler.Compiler().compile(small, str(file))
    return Compiled(list(yaml.safe_load_all(file.read_text())))


@pytest.fixture
def request_(pipeline: Compiled) -> Request:
    return Request(pipeline, {"number": 4, "words": ["x", "y"]}, name="first", experiment="eolgul")
