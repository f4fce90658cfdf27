"""Starting and stopping: what is refused, what is imported, what is left behind."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import tiny_package
from support.http_server import http_server
from support.serving import free_port

from eolgul.errors import InputError
from eolgul.model.package import ModelPackage
from eolgul.serving import LOADING, READING, launch
from eolgul.serving.inference.model import ServedModel, open_package
from eolgul.serving.settings import Settings


@pytest.mark.process
def test_serving_never_imports_torch() -> None:
    code = "import sys, eolgul.serving.service, eolgul.serving.launch, eolgul.registry.store; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_command_names_everything_and_keeps_the_environment(tmp_path: Path) -> None:
    environment = {"EOLGUL_S3_ENDPOINT": "s3:9000", "EOLGUL_MODEL": "/old", "PYTHONPATH": "/x"}
    port = free_port()
    argv, env = launch.command(port=port, registry="s3://bucket/registry", threads=2, environment=environment)
    assert argv[:5] == [sys.executable, "-P", "-m", "bentoml", "serve"]
    assert argv[-1] == str(port)
    assert env["EOLGUL_REGISTRY"] == "s3://bucket/registry" and "EOLGUL_MODEL" not in env
    assert env["EOLGUL_S3_ENDPOINT"] == "s3:9000" and env["EOLGUL_THREADS"] == "2"
    assert env["BENTOML_DO_NOT_TRACK"] == "True"
    assert (env["PYTHONPATH"], env["PYTHONSAFEPATH"]) == ("/x", "1")


def test_places_are_meant_from_the_callers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {
        "EOLGUL_API_KEYS_FILE": "keys.json",
        "EOLGUL_TRUSTED_KEYS_FILE": "/etc/trusted",
        "EOLGUL_S3_CACHE": "c",
    }
    _, env = launch.command(port=free_port(), registry="reg", environment=environment)
    assert env["EOLGUL_REGISTRY"] == str(tmp_path / "reg") and env["EOLGUL_API_KEYS_FILE"] == str(
        tmp_path / "keys.json"
    )
    assert env["EOLGUL_TRUSTED_KEYS_FILE"] == "/etc/trusted" and env["EOLGUL_S3_CACHE"] == str(tmp_path / "c")
    _, env = launch.command(port=free_port(), model=Path("m"), environment={})
    assert env["EOLGUL_MODEL"] == str(tmp_path / "m")


def test_a_port_in_use_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="choose another port"):
            launch.command(port=taken.getsockname()[1])


def test_settings_need_one_place_for_the_model(package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EOLGUL_REGISTRY", "EOLGUL_MODEL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="EOLGUL_REGISTRY"):
        open_package(Settings())
    with pytest.raises(InputError, match="EOLGUL_REGISTRY"):
        open_package(Settings(registry="somewhere", model=package.path))
    assert open_package(Settings(model=package.path)).digest == package.digest


@pytest.mark.process
def test_a_model_without_calibration_is_refused(tmp_path: Path, detector_folder: Path) -> None:
    bare = tiny_package.write(tmp_path / "bare", detector_folder, calibrated=False)
    with pytest.raises(InputError, match="calibration"):
        ServedModel(bare, Settings(model=bare.path))
    start = time.monotonic()
    with (
        pytest.raises(InputError, match=r"no model to serve: .*calibration"),
        launch.running(port=free_port(), model=bare.path, home=tmp_path / "home"),
    ):
        pass
    assert time.monotonic() - start < 30


def processes_of(home: Path) -> list[int]:
    """Processes whose environment carries this service's home (see `launch.command`)."""
    mark = f"BENTOML_HOME={home}\0".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("blow", [signal.SIGTERM, signal.SIGKILL], ids=lambda blow: blow.name)
def test_nothing_is_left_behind(package: ModelPackage, tmp_path: Path, blow: signal.Signals) -> None:
    code = (
        "import signal; from pathlib import Path; from eolgul.serving import launch\n"
        f"options = dict(model=Path({str(package.path)!r}), home=Path({str(tmp_path)!r}))\n"
        f"with launch.running(port={free_port()}, **options): print('up', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        while "up" not in (line := starter.stdout.readline()):
            assert line, "the service did not start"
        assert len(processes_of(tmp_path)) >= 2
        starter.send_signal(blow)
        starter.wait(20)
        deadline = time.monotonic() + 15
        while processes_of(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert processes_of(tmp_path) == []


@pytest.mark.parametrize("reason", [LOADING, f"{READING}: 3 templates of about 20000 people are read"])
def test_what_only_takes_time_is_waited_for_at_a_terminal_too(reason: str) -> None:
    answers = [503, 503, 200]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"detail": reason}).encode()
            self.send_response(answers.pop(0))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    running: Any = SimpleNamespace(poll=lambda: None)
    with http_server(Handler) as address:
        launch.wait_ready(address, running, 20)
    assert answers == []


def test_a_reason_that_lasts_is_said_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(1)
            body = b'{"detail": "the store is away"}'
            self.send_response(503 if len(asked) < 9 else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    slept: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: 100.0 * len(slept), sleep=slept.append)
    monkeypatch.setattr(launch, "time", clock)
    with http_server(Handler) as address:
        launch.wait_ready(address, SimpleNamespace(poll=lambda: None), 1e6, patient=True)  # type: ignore[arg-type]
    # Eight refusals, 100 s apart by this clock: at its 0th, 300th and 600th second.
    assert capsys.readouterr().err.splitlines() == ["not ready: the store is away"] * 3


@pytest.mark.process
@pytest.mark.parametrize(
    ("host", "said", "asked"),
    [
        ("0.0.0.0", "http://0.0.0.0:{port}", "http://127.0.0.1:{port}/ui/"),
        ("127.0.0.1", "http://127.0.0.1:{port}", "http://127.0.0.1:{port}/ui/"),
        ("::", "http://[::]:{port}", "http://[::1]:{port}/ui/"),
    ],
)
def test_the_address_is_the_true_one(
    host: str, said: str, asked: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """BentoML's own line says localhost for every address; ours does not, and a URL of IPv6 has brackets."""
    probed: list[str] = []
    monkeypatch.setattr(launch, "wait_ready", lambda url, *_, **__: probed.append(url))
    monkeypatch.setattr(
        launch, "command", lambda **_: (["true"], {"BENTOML_HOME": str(tmp_path), "EOLGUL_AUTH": "off"})
    )
    port = free_port()
    launch.serve(port=port, host=host)
    lines = capfd.readouterr().err.splitlines()
    assert f"listening on {said.format(port=port)}" in lines
    assert f"page: {asked.format(port=port)}" in lines
    assert probed == [asked.format(port=port).removesuffix("/ui/")]


def test_bentoml_says_no_address(caplog: pytest.LogCaptureFixture) -> None:
    import eolgul.serving.service  # noqa: F401 - installs the filter

    logger = logging.getLogger("bentoml.serve")
    with caplog.at_level(logging.INFO, "bentoml.serve"):
        logger.handle(logger.makeRecord(logger.name, 20, "", 0, "listening on %s", ("localhost",), None))
        logger.handle(logger.makeRecord(logger.name, 20, "", 0, "something else", (), None))
    assert "localhost" not in caplog.text
