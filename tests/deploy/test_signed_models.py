"""The component signed-models: keys are made once, and `make rotate WHAT=signing` replaces them, with a real store and a real registry."""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import cluster as stand_in
from support.cluster import Cluster
from support.deployed import client, started
from support.registry import evaluation, model

from eolgul import storage
from eolgul.errors import InputError
from eolgul.promote.step import promote
from eolgul.registry.signing import SigningKey, TrustedKeys
from eolgul.registry.store import download

Run = Callable[..., subprocess.CompletedProcess[str]]
REGISTRY = "s3://eolgul/registry"


@pytest.fixture
def overlay(checkout: Path) -> Path:
    """`local`, whose service takes only signed models."""
    folder = checkout / "k8s" / "overlays" / "local"
    file = folder / "kustomization.yaml"
    text = file.read_text().replace("      - api-keys.json", "      - trusted-keys\n      - api-keys.json")
    file.write_text(text + "components:\n  - ../../components/signed-models\n")
    return folder


@contextlib.contextmanager
def account(settings: dict[str, str]) -> Iterator[None]:
    """Reach a store as somebody; the client is made once for a process, so it is made anew before and after."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        storage.forget_settings()
        try:
            yield
        finally:
            storage.forget_settings()


@dataclass
class Deployed:
    """What a deploy left: its stand-in of a cluster, and how to run deploy.sh again."""

    cluster: Cluster
    run: Run
    s3: int
    service: dict[str, str]
    """The environment of the service's account."""

    def loads(self, digest: str, keys: Path) -> bool:
        """Whether a service that trusts these keys takes the model, with the rights of its account."""
        shutil.rmtree(self.service["EOLGUL_S3_CACHE"], ignore_errors=True)
        with account(self.service):
            try:
                return download(REGISTRY, digest, TrustedKeys.read(keys)).digest == digest
            except InputError as error:
                assert "not a trusted key" in str(error)
                return False

    def trusted(self) -> str:
        """The public keys that the pods have."""
        held = self.cluster.objects["secrets", "eolgul", "eolgul-serving-keys"]["data"]["trusted-keys"]
        return base64.b64decode(held).decode()


@pytest.fixture
def deployed(checkout: Path, overlay: Path, run_deploy: Run, tmp_path: Path) -> Iterator[Deployed]:
    with stand_in.running() as cluster:

        def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
            return run_deploy(checkout, cluster, *arguments, **({"EOLGUL_API_KEY": "", "SMOKE_TRIES": "1"} | more))

        assert run("--secrets").returncode == 0
        (overlay / "api-key").unlink()  # the service is not asked: there is none
        lines = (overlay / "secrets.env").read_text().splitlines()
        secrets = dict(line.split("=", 1) for line in lines if "=" in line)
        (tmp_path / "store").mkdir()
        with started(tmp_path / "store", secrets) as port:
            client(port, secrets, "MINIO_ROOT").make_bucket(bucket_name="eolgul")
            place = {"ENDPOINT": f"127.0.0.1:{port}", "SECURE": "false"}

            def who(name: str) -> dict[str, str]:
                own = {f"{part}_KEY": secrets[f"{name}_S3_{part}_KEY"] for part in ("ACCESS", "SECRET")}
                own |= place | {"CACHE": str(tmp_path / f"cache-{name}")}
                return {f"EOLGUL_S3_{key}": value for key, value in own.items()}

            done = run()
            assert done.returncode == 0, done.stderr
            with account(who("PIPELINE")):
                yield Deployed(cluster, run, port, who("SERVING"))


def test_keys_are_made_once(overlay: Path, checkout: Path, run_deploy: Run) -> None:
    with stand_in.running() as cluster:
        rendered = run_deploy(checkout, cluster, "--render")
        assert "EOLGUL_TRUSTED_KEYS_FILE: /etc/eolgul/trusted-keys" in rendered.stdout, rendered.stderr
        first = run_deploy(checkout, cluster, "--secrets")
        assert "--from-file=key=k8s/overlays/local/signing-key" in first.stdout
        key = (overlay / "signing-key").read_text()
        assert SigningKey.read(overlay / "signing-key").public_pem().decode() == (overlay / "trusted-keys").read_text()
        assert (overlay / "signing-key").stat().st_mode & 0o077 == 0
        assert "trusted-keys is kept" in run_deploy(checkout, cluster, "--secrets").stdout
        assert (overlay / "signing-key").read_text() == key
        (overlay / "trusted-keys").unlink()
        done = run_deploy(checkout, cluster)
        assert done.returncode == 2 and "overlays/local/trusted-keys is missing: make secrets" in done.stderr
        assert cluster.changes == []


def test_after_a_rotation_the_old_key_opens_nothing(deployed: Deployed, overlay: Path, tmp_path: Path) -> None:
    old_file, trusted = tmp_path / "old", overlay / "trusted-keys"
    old_file.write_bytes(trusted.read_bytes())
    old = SigningKey.read(overlay / "signing-key")
    package = model(tmp_path / "m", 1)
    digest = promote(package, evaluation(tmp_path / "e", package, fnmr=0.2), REGISTRY, signing_key=old).digest
    assert deployed.loads(digest, trusted)

    failed = deployed.run("--rotate", "signing")  # nothing leads to the store
    assert failed.returncode == 1 and "cannot be reached" in failed.stderr, failed.stderr
    assert deployed.loads(digest, trusted) and deployed.trusted() == trusted.read_text() != old_file.read_text()

    def rotate() -> subprocess.CompletedProcess[str]:
        return deployed.run("--rotate", "signing", FORWARD_MINIO=f"127.0.0.1:{deployed.s3}")

    for _ in range(2):
        done = rotate()
        assert done.returncode == 0, done.stdout + done.stderr
        assert deployed.loads(digest, trusted) and not deployed.loads(digest, old_file)
        assert (
            deployed.trusted() == trusted.read_text() == SigningKey.read(overlay / "signing-key").public_pem().decode()
        )
        assert old.public_pem().decode() not in deployed.trusted()
        assert not list(overlay.glob("*.new"))


def test_an_empty_registry_has_nothing_to_sign(deployed: Deployed, overlay: Path) -> None:
    before = (overlay / "trusted-keys").read_text()
    done = deployed.run("--rotate", "signing", FORWARD_MINIO=f"127.0.0.1:{deployed.s3}")
    assert done.returncode == 0 and "There is no model to sign yet." in done.stdout, done.stderr
    assert deployed.trusted() == (overlay / "trusted-keys").read_text() != before


def plain(overlay: Path) -> None:
    file = overlay / "kustomization.yaml"
    file.write_text(file.read_text().replace("      - trusted-keys\n", "").partition("components:")[0])


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda overlay: (overlay / "signing-key").unlink(), "whoever holds the present key"),
        (plain, "takes unsigned models"),
    ],
)
def test_what_cannot_be_rotated_is_refused(
    checkout: Path, overlay: Path, run_deploy: Run, break_it: Callable[[Path], Any], words: str
) -> None:
    with stand_in.running() as cluster:
        assert run_deploy(checkout, cluster, "--secrets").returncode == 0
        break_it(overlay)
        before = (overlay / "trusted-keys").read_text()
        done = run_deploy(checkout, cluster, "--rotate", "signing")
        assert done.returncode == 2 and words in done.stderr and cluster.changes == []
        assert (overlay / "trusted-keys").read_text() == before
