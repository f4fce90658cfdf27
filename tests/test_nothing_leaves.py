"""What the commands, the service and the client would send out: nothing, in a network where a name server and a packet socket look."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import onnx
import pytest
from support import runs, sealed
from support.places import ROOT, TESTS
from support.tiny_package import recognizer

import eolgul

pytestmark = [pytest.mark.process, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def _network() -> None:
    if reason := sealed.why_not():
        pytest.skip(reason)


def environment(home: Path) -> dict[str, str]:
    """As a user has it who has set nothing: no switch, a home of its own."""
    home.mkdir()
    mine = {name: value for name, value in os.environ.items() if name not in eolgul.TELEMETRY_OFF}
    mine |= {"HOME": str(home), "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(TESTS)])}
    mine.pop("XDG_CACHE_HOME", None)
    return mine | {"EOLGUL_IMAGE_PREFIX": "registry.example/eolgul"}


def files(home: Path) -> list[str]:
    """What is kept in the user's home, but for our own copies of S3 and matplotlib's list of fonts."""
    kept = (str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    return sorted(name for name in kept if not name.startswith((".cache/eolgul/", ".cache/matplotlib/fontlist")))


def test_the_recorder_sees_names_and_packets(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "for place in (('collector.example', 443), ('2001:db8::1', 80)):\n"
        "    try: socket.create_connection(place, 2)\n"
        "    except OSError: pass\n"
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('198.51.100.7', 4000))\n"
        "here = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(here.getsockname())"
    )
    left = sealed.run([sys.executable, "-c", code], environment(tmp_path / "home"), timeout=60)
    assert left.status == 0, left.output
    assert left.names == ["collector.example"]
    sent = {"tcp 192.0.2.1:443", "tcp 2001:db8::1:80", "udp 198.51.100.7:4000"}
    assert sent <= set(left.packets) and {one.split()[0] for one in set(left.packets) - sent} <= {"icmp"}


@pytest.fixture(scope="module")
def unguarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Future[sealed.Left], Path]]:
    """ONNX Runtime alone, without the switch; it waits while the chain runs. Its collector is looked up after some 8 s."""
    folder = tmp_path_factory.mktemp("unguarded")
    onnx.save(recognizer(0), folder / "model.onnx")
    code = (
        "import sys, time, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "time.sleep(12)"
    )
    argv = [sys.executable, "-c", code, str(folder / "model.onnx")]
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(sealed.run, argv, environment(folder / "home"), timeout=120), folder / "home"


def test_nothing_leaves(tmp_path: Path, unguarded: object) -> None:
    """Extraction, alignment, training, evaluation, promotion, compiling, the service, the client: no look-up, no connection."""
    runs.draw(tmp_path / "chain")
    home = tmp_path / "home"
    left = sealed.run([sys.executable, "-m", "support.chain", str(tmp_path / "chain")], environment(home), timeout=600)
    assert left.status == 0, left.output[-3000:]
    assert "\nverdict: " in left.output
    assert (left.names, left.packets) == ([], [])
    assert not files(home)


def test_without_the_switch_onnx_runtime_sends(unguarded: tuple[Future[sealed.Left], Path]) -> None:
    """What the test of the chain looks for, it sees. This fails once the wheels no longer send: then the switch may go."""
    future, home = unguarded
    left = future.result()
    assert left.status == 0, left.output
    assert left.names and left.packets == ["tcp 192.0.2.1:443"]
    assert any(file.endswith("deviceid") for file in files(home))


@pytest.mark.slow
@pytest.mark.skipif("EOLGUL_TEST_LEAVES" not in os.environ, reason="EOLGUL_TEST_LEAVES=1: the whole demo, some minutes")
def test_nothing_leaves_in_the_whole_demo(tmp_path: Path) -> None:
    """With the object store, Redis, and the steps as components of the pipeline."""
    home = tmp_path / "home"
    small = ["--people", "14", "--rec-people", "16", "--set", "epochs=4", "--set", "batch_size=16"]
    argv = [sys.executable, "-m", "eolgul", "demo", "--work", str(tmp_path / "demo"), "--port", "3999", *small]
    left = sealed.run(argv, environment(home), timeout=800)
    assert left.status == 0, left.output[-3000:]
    assert (left.names, left.packets) == ([], [])
