"""`make rotate`: the real kubectl and the script; each kind of secret is new afterwards, and only that one."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from support import cluster as stand_in
from support.cluster import Cluster
from support.http_server import http_server

Rotate = Callable[..., subprocess.CompletedProcess[str]]


class Service(BaseHTTPRequestHandler):
    """Takes any key; knows no face."""

    def answer(self, status: int, value: dict[str, str]) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = json.dumps(value, separators=(",", ":")).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.answer(200, {"digest": "ab" * 32})

    def do_POST(self) -> None:
        self.answer(422, {"detail": "no face"})

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with stand_in.running() as cluster:
        yield cluster


@pytest.fixture
def overlay(checkout: Path) -> Path:
    return checkout / "k8s" / "overlays" / "local"


@pytest.fixture
def rotate(cluster: Cluster, checkout: Path, run_deploy: Rotate) -> Iterator[Rotate]:
    """A deploy with secrets of its own, and `rotate(what)`."""
    with http_server(Service) as address:
        forward = {"FORWARD_TO": address.removeprefix("http://")}
        assert run_deploy(checkout, cluster, "--secrets").returncode == 0
        done = run_deploy(checkout, cluster, **forward)
        assert done.returncode == 0, done.stderr
        yield lambda what, **more: run_deploy(checkout, cluster, "--rotate", what, **(forward | more))


def files(overlay: Path) -> dict[str, str]:
    """Every value of the secrets, by name."""
    lines = (overlay / "secrets.env").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return values | {name: (overlay / name).read_text() for name in ("api-key", "api-keys.json", "encryption-keys")}


def in_cluster(cluster: Cluster) -> str:
    """All that the cluster's Secrets hold."""
    values = [
        base64.b64decode(value).decode()
        for (kind, _, _), thing in cluster.objects.items()
        if kind == "secrets"
        for value in thing["data"].values()
    ]
    return "\n".join(values)


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("redis", {"REDIS_PASSWORD"}),
        ("root", {"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"}),
        ("s3", {f"{who}_S3_{part}_KEY" for who in ("SERVING", "PIPELINE") for part in ("ACCESS", "SECRET")}),
        ("api", {"api-key", "api-keys.json"}),
        ("encryption", {"encryption-keys"}),
    ],
)
def test_what_is_rotated_is_new_and_the_old_is_gone(
    rotate: Rotate, cluster: Cluster, overlay: Path, what: str, names: set[str]
) -> None:
    before = files(overlay)
    done = rotate(what)
    assert done.returncode == 0, done.stdout + done.stderr
    after = files(overlay)
    assert {name for name in before if before[name] != after[name]} == names
    held = in_cluster(cluster)
    for name in names - {"api-key"}:  # the service knows only its digest
        assert before[name].strip() not in held and after[name].strip() in held, name
    if what == "api":
        [entry] = json.loads(after["api-keys.json"])["keys"]
        assert entry["sha256"] == hashlib.sha256(after["api-key"].strip().encode()).hexdigest()
    for path in overlay.iterdir():
        assert not path.name.endswith(".new")


def test_encryption_keys_go_only_when_nothing_needs_them(rotate: Rotate, cluster: Cluster, overlay: Path) -> None:
    before = files(overlay)["encryption-keys"]
    failed = rotate("encryption", RESEAL_FAILS="the gallery cannot be reached")
    assert failed.returncode == 1 and "the old keys are still in place" in failed.stderr
    assert files(overlay)["encryption-keys"].splitlines()[1:] == before.splitlines()
    assert before.strip() in in_cluster(cluster)
    done = rotate("encryption")
    assert done.returncode == 0, done.stderr
    assert len(files(overlay)["encryption-keys"].splitlines()) == 1 and before.strip() not in in_cluster(cluster)
    assert before.strip() in (overlay / "encryption-keys.old").read_text()  # for the backups of before
    assert cluster.restarted == ["serving"] * 3  # the failed run's, and once for each file of keys


@pytest.mark.parametrize(
    ("change", "what", "words"),
    [
        (lambda overlay: None, "everything", "expected api, redis, s3, root, encryption or signing"),
        (
            lambda overlay: (overlay / "api-keys.json").write_text('{"keys": [{"id": "a"}, {"id": "b"}]}'),
            "api",
            "eolgul key new, deploy, eolgul key revoke",
        ),
        (
            lambda overlay: (overlay / "secrets.env.example").write_text("REDIS_PASSWORD=from-your-store\n"),
            "redis",
            "REDIS_PASSWORD is not ours to make",
        ),
    ],
)
def test_what_cannot_be_rotated_changes_nothing(
    rotate: Rotate, cluster: Cluster, overlay: Path, change: Callable[[Path], object], what: str, words: str
) -> None:
    change(overlay)
    before, asked = files(overlay), len(cluster.changes)
    done = rotate(what)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert files(overlay) == before and len(cluster.changes) == asked


def test_without_an_answer_nothing_is_new(rotate: Rotate, overlay: Path) -> None:
    before = files(overlay)
    assert rotate("redis", YES="").returncode == 2
    assert files(overlay) == before
