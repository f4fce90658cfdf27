"""Two worker processes behind one address: one cache, one count of requests, one set of metrics, one way out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from support.load import Crowd, check, lines
from support.serving import People, RedisServer, Service, free_port

from eolgul.errors import InputError
from eolgul.model.package import ModelPackage
from eolgul.serving import launch
from eolgul.serving.access.keys import SCOPES, new_key
from eolgul.serving.inference.loader import Loader
from eolgul.serving.keyring import new_line
from eolgul.serving.settings import Settings

Fresh = Callable[[bytes], bytes]
WORKERS = 2
PROCESS = (
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
)


def children(supervisor: int) -> list[int]:
    """The supervisor's workers (its other child is multiprocessing's tracker)."""
    pids = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return [int(pid) for pid in pids if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@contextlib.contextmanager
def started(
    package: ModelPackage, folder: Path, **settings: object
) -> Iterator[tuple[Service, subprocess.Popen[bytes]]]:
    """A service of two workers, ready; its log is `folder`/log."""
    (folder / "encryption").write_text(new_line() + "\n")
    given = {"auth": "off", "requests_per_minute": 0, "workers": WORKERS, "concurrency": 1, "drain_s": 0.5} | settings
    environment = dict(os.environ) | {f"EOLGUL_{name.upper()}": str(value) for name, value in given.items()}
    environment.setdefault("EOLGUL_ENCRYPTION_KEYS_FILE", str(folder / "encryption"))
    port = free_port()
    argv, env = launch.command(port=port, model=package.path, home=folder / "home", environment=environment)
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            argv, env=env, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}"
            launch.wait_ready(url, process)
            with httpx.Client(base_url=url, timeout=30) as client:
                yield Service(client), process
        finally:
            launch.stop(process)


def test_they_share_cache_metrics_and_limit(
    package: ModelPackage, people: People, redis_server: RedisServer, fresh: Fresh, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    key, _ = new_key(file, tenant="t", scopes=SCOPES, requests_per_minute=300)
    settings = {"auth": "on", "api_keys_file": file, "redis_url": redis_server.url, "redis_timeout_s": 0.5}
    image = fresh(people.a1)
    with started(package, tmp_path, **settings) as (service, process):
        assert len(children(process.pid)) == WORKERS
        url, headers = service.client.base_url, {"authorization": f"Bearer {key}"}
        while time.time() % 60 > 40:  # the count of requests is by the minute
            time.sleep(0.5)
        answers = []
        for number in range(60):  # each over a connection of its own, which either worker accepts
            answer = httpx.post(f"{url}/v1/embed", files={"image": image}, headers=headers, timeout=30)
            answers.append(answer)
            assert answer.status_code == 200 and answer.json()["cached"] == (number > 0)
            assert answer.headers["ratelimit-remaining"] == str(300 - number - 1)
        for _ in range(10):  # whoever is asked tells of both
            text = httpx.get(f"{url}/metrics").text
            assert 'eolgul_requests_total{route="/v1/embed",status="200"} 60.0' in text
            assert (
                'eolgul_cache_total{outcome="hit"} 59.0' in text and 'eolgul_cache_total{outcome="error"} 0.0' in text
            )
        pids = children(process.pid)
        used = {name: service.metric(name) for name in PROCESS}
        resident = sum(resident_bytes(pid) for pid in pids)
        assert used["process_resident_memory_bytes"] == pytest.approx(resident, rel=0.1)
        assert used["process_cpu_seconds_total"] > 1 and used["process_max_fds"] >= used["process_open_fds"] > 20
        assert used["process_virtual_memory_bytes"] > resident
        assert abs(used["process_start_time_seconds"] - time.time()) < 300
        for pid in pids:  # both have answered: each has counted calls in a file of its own
            [counted] = (tmp_path / "home").rglob(f"counter_{pid}.db")
            assert b'"/v1/embed"' in counted.read_bytes()
    assert {tuple(one.json()["embedding"]) for one in answers} == {tuple(answers[0].json()["embedding"])}


def test_a_killed_worker_comes_back_and_no_one_meets_one_without_a_model(
    package: ModelPackage, people: People, tmp_path: Path
) -> None:
    with started(package, tmp_path) as (service, process):
        pairs = [(people.a1, people.a2), (people.a1, people.b1)]
        expected = [service.verify(*pair).json()["similarity"] for pair in pairs]
        first = children(process.pid)
        cpu_s = service.metric("process_cpu_seconds_total")
        crowd = Crowd(str(service.client.base_url), pairs)
        with crowd.asking():
            crowd.more(40)
            os.kill(first[0], signal.SIGKILL)
            deadline = time.monotonic() + 60
            strangers = []  # over connections of their own, so that the new worker may take them
            while len(lines(tmp_path / "log", 0, f"serving model {package.digest}")) <= WORKERS:
                strangers.append(
                    httpx.post(f"{crowd.url}/v1/embed", files={"image": people.a1}, timeout=30).status_code
                )
                assert time.monotonic() < deadline
            crowd.more(50)
            assert set(strangers) == {200}
            assert len(children(process.pid)) == WORKERS and first[0] not in children(process.pid)
        assert service.metric("eolgul_requests_inside") == 0  # the killed one had some, and its file says so
        assert service.metric("process_cpu_seconds_total") > cpu_s  # though that of the killed one is in no process now
        lost = [one for one in crowd.answers if one.status == 0]
        assert len(lost) <= 4  # what the killed one was answering, and no more
        check([one for one in crowd.answers if one.status], expected)


def test_sigterm_under_load_loses_nothing(package: ModelPackage, people: People, tmp_path: Path) -> None:
    with started(package, tmp_path) as (service, process):
        url, counts = str(service.client.base_url), {"ok": 0, "refused": 0, "lost": 0}
        lock = threading.Lock()

        def ask() -> None:
            while True:
                try:
                    status = httpx.post(f"{url}/v1/embed", files={"image": people.a1}, timeout=30).status_code
                    outcome = "ok" if status == 200 else "lost"
                except httpx.ConnectError:
                    outcome = "refused"
                except httpx.HTTPError:
                    outcome = "lost"
                with lock:
                    counts[outcome] += 1
                if outcome == "refused":
                    return

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 30
        while counts["ok"] <= 16 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(30)
        assert process.wait(20) in (0, -signal.SIGTERM)
        assert counts["lost"] == 0 and counts["refused"] == 8 and counts["ok"] > 16


def test_a_shared_cache_needs_a_shared_key(package: ModelPackage, redis_server: RedisServer, tmp_path: Path) -> None:
    settings = {"redis_url": redis_server.url, "encryption_keys_file": ""}
    with pytest.raises(InputError, match="before it was ready"), started(package, tmp_path, **settings):
        pass
    assert "several workers with a cache need EOLGUL_ENCRYPTION_KEYS_FILE" in (tmp_path / "log").read_text()


def test_the_first_look_is_waited_for(package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker does before it takes requests, where a model is slow to come (here: a store that takes its time)."""
    loader = Loader(Settings(model=package.path))
    update = loader.update

    def slow_update() -> None:
        time.sleep(0.5)
        update()

    monkeypatch.setattr(loader, "update", slow_update)
    loader.start()
    assert not loader.ready
    asyncio.run(asyncio.wait_for(loader.wait_first_load(), 30))
    assert loader.ready
    loader.stop()
