"""The model store breaks: S3 killed, silent or absent at the start, a full disk. What is served goes on being served."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.load import Crowd, check, lines, until
from support.serving import People, Service, free_port

from eolgul import storage
from eolgul.artifact import canonical_json
from eolgul.demo import embedded
from eolgul.errors import InputError
from eolgul.model.package import ModelPackage
from eolgul.serving import launch

EACH = 60
REGISTRY = "s3://models/registry"
QUICK = {"EOLGUL_FOLLOW_S": "0.2", "EOLGUL_RETRY_S": "0.2", "EOLGUL_CONCURRENCY": "2"}
OPEN = {"EOLGUL_AUTH": "off", "EOLGUL_REQUESTS_PER_MINUTE": "0"}


class Store:
    """A real S3 that is killed and comes back at the same address with what it held."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._running = folder, contextlib.ExitStack()
        self._up = False
        self.environment: dict[str, str] = {}

    def start(self) -> None:
        if not self._up:
            server = self._running.enter_context(embedded.s3(self._folder, patient=False))
            self.environment = server.environment(self._folder / "tests-cache")
            self._up = True

    def kill(self) -> None:
        self._running.close()
        self._up = False

    def send(self, number: signal.Signals) -> None:
        """A signal to its process, found among this one's children."""
        pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        mine = [pid for pid in pids if str(self._folder) in Path(f"/proc/{pid}/cmdline").read_text()]
        assert len(mine) == 1
        os.kill(int(mine[0]), number)

    def add(self, *packages: ModelPackage) -> None:
        for package in packages:
            storage.publish(package.path, f"{REGISTRY}/models/{package.digest}")

    def point(self, package: ModelPackage) -> None:
        pointer: dict[str, Any] = {
            "digest": package.digest,
            "promoted_at": "2026-01-01T00:00:00+00:00",
            "previous": None,
            "reasons": [],
        }
        storage.write_bytes(f"{REGISTRY}/production.json", canonical_json(pointer))


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    ports = embedded.free_ports(8)
    with pytest.MonkeyPatch.context() as patch:  # the same address and credentials after a restart
        patch.setattr(embedded, "free_ports", lambda count: ports[:count])
        patch.setattr(embedded.secrets, "token_hex", lambda count: "ab" * count)
        made = Store(tmp_path_factory.mktemp("s3"))
        try:
            made.start()
        except InputError as error:
            pytest.skip(str(error))
        for name, value in made.environment.items():
            patch.setenv(name, value)
        storage.forget_settings()
        storage.make_bucket(REGISTRY)
        yield made
        made.kill()
    storage.forget_settings()


@pytest.fixture
def store(started: Store, package: ModelPackage, other_package: ModelPackage) -> Store:
    """Running, with both models; the first is in production."""
    started.start()
    started.add(package, other_package)
    started.point(package)
    return started


@dataclass
class Following:
    service: Service
    process: subprocess.Popen[bytes]
    log: Path

    def model(self) -> str:
        return str(self.service.client.get("/v1/models/current").json().get("digest", ""))

    def metric(self, outcome: str) -> float:
        return self.service.metric("eolgul_model_swaps_total", outcome=outcome)

    def crowd(self, people: People) -> Crowd:
        return Crowd(str(self.service.client.base_url), [(people.a1, people.a2), (people.a1, people.b1)])


@contextlib.contextmanager
def following(store: Store, folder: Path, *, cache: Path | None = None) -> Iterator[Following]:
    """A service that follows the pointer in `store`, not waited for."""
    folder.mkdir(exist_ok=True)
    environment = (
        dict(os.environ) | store.environment | QUICK | OPEN | {"EOLGUL_S3_CACHE": str(cache or folder / "cache")}
    )
    port = free_port()
    argv, env = launch.command(port=port, registry=REGISTRY, home=folder / "home", environment=environment)
    with (folder / "log").open("ab") as output:
        process = subprocess.Popen(
            argv, env=env, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, timeout=30) as client:
                until(lambda: _alive(client), 60)
                yield Following(Service(client), process, folder / "log")
        finally:
            launch.stop(process)


def _alive(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/livez").status_code == 200
    return False


def ready(asked: Following) -> bool:
    return asked.service.client.get("/readyz").status_code == 200


def similarities(asked: Following, people: People) -> list[float]:
    return [asked.service.verify(*pair).json()["similarity"] for pair in asked.crowd(people).pairs]


@pytest.mark.parametrize("fault", ["killed", "silent"])
def test_a_store_that_goes_away_under_load(
    store: Store, people: People, package: ModelPackage, other_package: ModelPackage, tmp_path: Path, fault: str
) -> None:
    with following(store, tmp_path / "serving") as asked:
        until(lambda: ready(asked), 60)
        expected, crowd = similarities(asked, people), asked.crowd(people)
        with crowd.asking():
            crowd.more(EACH)
            store.kill() if fault == "killed" else store.send(signal.SIGSTOP)
            until(lambda: asked.metric("unreachable") > 0, 40)
            gone = crowd.more(EACH)
            assert ready(asked)
            store.start() if fault == "killed" else store.send(signal.SIGCONT)
            seen = len(crowd.answers)
            store.point(other_package)
            until(lambda: asked.model() == other_package.digest, 60)
            swapped = crowd.more(EACH)
        others = similarities(asked, people)
        assert {one.model for one in (*crowd.answers[:seen], *gone)} == {package.digest}
        assert {one.model for one in swapped} == {other_package.digest}
        assert abs(expected[1] - others[1]) > 1e-4  # an answer of the wrong model would show
        check([one for one in crowd.answers if one.model == package.digest], expected)
        check([one for one in crowd.answers if one.model == other_package.digest], others)
        assert {one.status for one in crowd.answers} == {200}
        assert lines(asked.log, 0, f"model {package.digest[:12]} stays", "S3" if fault == "killed" else "answer")
        assert asked.metric("swapped") == 1


def test_a_start_without_the_store(
    store: Store, people: People, package: ModelPackage, other_package: ModelPackage, tmp_path: Path
) -> None:
    """The last verified model that is on this disk is served, and the store is followed again when it is back."""
    with following(store, tmp_path / "serving") as asked:
        until(lambda: ready(asked), 60)
        expected = similarities(asked, people)
    store.kill()
    with following(store, tmp_path / "serving") as asked:
        until(lambda: ready(asked), 40)
        assert similarities(asked, people) == pytest.approx(expected, abs=1e-5)
        assert asked.model() == package.digest and asked.metric("unreachable") >= 1
        assert lines(asked.log, 0, f"serving {package.digest}, the last verified model on this disk")
        store.start()
        store.point(other_package)
        until(lambda: asked.model() == other_package.digest, 60)


def test_a_first_start_without_the_store(store: Store, people: People, package: ModelPackage, tmp_path: Path) -> None:
    """Nothing to serve: alive, not ready, /readyz says why; ready by itself once the store is there."""
    store.kill()
    with following(store, tmp_path / "serving") as asked:
        until(lambda: asked.metric("unreachable") >= 1, 40)
        unready = asked.service.client.get("/readyz")
        assert unready.status_code == 503 and "S3" in unready.json()["detail"]
        assert asked.service.embed(people.a1).json()["code"] == "model_not_ready"
        store.start()
        until(lambda: ready(asked), 60)
        assert asked.service.embed(people.a1).json()["model"] == package.digest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB: that of EOLGUL_TEST_SMALL_DISK, where a user without rights could mount none."""
    if (given := os.environ.get("EOLGUL_TEST_SMALL_DISK")) is not None:
        yield Path(given)
        return
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no small file system can be mounted here: it takes root and a kernel that lets it")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk(
    store: Store,
    people: People,
    package: ModelPackage,
    other_package: ModelPackage,
    tmp_path: Path,
    small_disk: Path,
) -> None:
    """The new model does not fit: the old one stays, the log says why, nothing half is left, and room is all it takes."""
    with following(store, tmp_path / "serving", cache=small_disk) as asked:
        until(lambda: ready(asked), 60)
        expected, crowd = similarities(asked, people), asked.crowd(people)
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        os.truncate(filler, filler.stat().st_size - 100_000)  # room for its small files, not for its networks
        with crowd.asking():
            store.point(other_package)
            until(lambda: asked.metric("refused") >= 2, 30)
            crowd.more(EACH)
            assert ready(asked)
        check(crowd.answers, expected)
        assert {one.model for one in crowd.answers} == {package.digest}
        [line] = lines(asked.log, 0, f"model {package.digest[:12]} stays")
        assert "No space left on device" in line
        filler.unlink()
        until(lambda: asked.model() == other_package.digest, 30)
        assert not [path for path in small_disk.rglob("*") if ".part" in path.name]
