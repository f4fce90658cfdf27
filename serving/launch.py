"""Starting and stopping the service from another process: what `eolgul serve` and the demo use."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from eolgul.errors import InputError
from eolgul.serving import LOADING
from eolgul.serving.access.keys import SCOPES, new_key, read_keys
from eolgul.serving.keyring import Keyring, new_line
from eolgul.serving.settings import Settings
from eolgul.storage import is_s3

_LOCAL_RATE = 1_000_000  # a minute: the limit is for strangers


def command(
    *,
    port: int,
    host: str = "127.0.0.1",
    registry: str = "",
    model: Path | None = None,
    redis_url: str = "",
    gallery_url: str = "",
    threads: int | None = None,
    concurrency: int | None = None,
    home: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """The arguments and the whole environment of the process that serves on `host` (an IP address) and `port`.

    Give `registry` (`s3://bucket/key` or a folder) or `model` (a package folder). Values not given come from
    `environment` (default: this process's), so S3 credentials and EOLGUL_* settings pass through. `home` is a folder
    for BentoML's own state, among it the metrics of all workers: two services must not share one, so the default
    names the port. Start the process with `start_new_session=True` and end it with `stop`, or use `running`.
    InputError when the port is in use, where another service would answer in this one's place.
    """
    _check_free(host, port)
    env = dict(os.environ if environment is None else environment)
    cache = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = home or cache / "eolgul" / f"serve-{port}"
    given = {
        "EOLGUL_REGISTRY": registry,
        "EOLGUL_MODEL": str(model or ""),
        "EOLGUL_REDIS_URL": redis_url,
        "EOLGUL_GALLERY_URL": gallery_url,
        "EOLGUL_THREADS": threads,
        "EOLGUL_CONCURRENCY": concurrency,
    }
    if registry or model:  # one named here replaces whichever the environment names
        env.pop("EOLGUL_REGISTRY", None)
        env.pop("EOLGUL_MODEL", None)
    env.update({name: str(value) for name, value in given.items() if value})
    _absolute(env)
    if ipaddress.ip_address(host).is_loopback:
        env.setdefault("EOLGUL_DRAIN_S", "0")  # no load balancer is told of an address of this machine alone
    env["BENTOML_DO_NOT_TRACK"] = "True"
    # BentoML opens a trace for every request, whoever looks at it: a third of the throughput and kilobytes each.
    env.setdefault("OTEL_SDK_DISABLED", "true")
    env["BENTOML_HOME"] = str(home)
    # Neither the interpreter nor BentoML may import from the working directory, whoever owns that: BentoML puts its
    # `--working-dir` first on sys.path, so that is the private folder `home`, and Python's own entry is left out.
    env["PYTHONSAFEPATH"] = "1"
    env.setdefault("OMP_NUM_THREADS", env.get("EOLGUL_THREADS", "1"))
    arguments = ["serve", "eolgul.serving.service:FaceVerification", "--working-dir", str(home), "--host", host]
    return [sys.executable, "-P", "-m", "bentoml", *arguments, "--port", str(port)], env


def _absolute(env: dict[str, str]) -> None:
    """Places are meant from this process's folder, and the service works in another."""
    files = [name for name, field in Settings.model_fields.items() if field.annotation in (Path, Path | None)]
    for name in ("EOLGUL_REGISTRY", "EOLGUL_S3_CACHE", *(f"EOLGUL_{name.upper()}" for name in files)):
        if (place := env.get(name)) and not is_s3(place):
            env[name] = str(Path.cwd() / Path(place).expanduser())


@dataclass(frozen=True, slots=True)
class Running:
    """A service that answers at `url` (`http://host:port`); `key` is the API key made for this run, None where the
    settings name a file of keys."""

    url: str
    key: str | None

    @property
    def page(self) -> str:
        """The page's address. A browser never sends the fragment, so the key stays in it."""
        return f"{self.url}/ui/" + (f"#key={self.key}" if self.key else "")

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers that authenticate a request."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


def _secrets(env: dict[str, str], host: str) -> str | None:
    """Give the service keys where its settings name none: an API key for this run, returned, and a lasting key for what
    it encrypts. Only for a service that this machine alone can reach; InputError for any other without API keys."""
    home = Path(env["BENTOML_HOME"])
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not env.get("EOLGUL_ENCRYPTION_KEYS_FILE"):
        file = home / "encryption-keys"
        if not file.exists():
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(new_line() + "\n")
        env["EOLGUL_ENCRYPTION_KEYS_FILE"] = str(file)
    Keyring.read(Path(env["EOLGUL_ENCRYPTION_KEYS_FILE"]))  # in one sentence here, not in each worker's traceback
    if env.get("EOLGUL_AUTH") == "off":
        return None
    if env.get("EOLGUL_API_KEYS_FILE"):
        read_keys(Path(env["EOLGUL_API_KEYS_FILE"]))
        return None
    if not ipaddress.ip_address(host).is_loopback:
        raise InputError(
            f"listening on {host} lets others in: set EOLGUL_API_KEYS_FILE (make one: eolgul key new), or EOLGUL_AUTH=off"
        )
    file = home / "api-keys.json"
    file.unlink(missing_ok=True)  # a key for one run ends with it
    key, _ = new_key(file, tenant="local", scopes=SCOPES, requests_per_minute=_LOCAL_RATE, note="made by eolgul serve")
    env["EOLGUL_API_KEYS_FILE"] = str(file)
    return key


@contextmanager
def running(
    *, port: int, host: str = "127.0.0.1", timeout: float = 60.0, output: IO[Any] | None = None, **options: Any
) -> Iterator[Running]:
    """Serve while the block runs; yields the address and key. `options` are those of `command`; `output` is the file for the
    service's log (default: standard error, so that standard output stays this process's own).

    Nothing is left behind however the block ends: SIGTERM is turned into SystemExit meanwhile (main thread only), and
    should this process be killed outright, the kernel ends the service. InputError when it cannot start.
    """
    with _started(port, host, timeout, output, options) as (service, _):
        yield service


def serve(*, port: int, host: str = "127.0.0.1", timeout: float = 60.0, **options: Any) -> int:
    """Serve until stopped by SIGTERM (SystemExit) or Ctrl-C (KeyboardInterrupt); the status should the service end by
    itself. InputError, with the reason, when it cannot start. Options as for `running`."""
    with _started(port, host, timeout, None, options) as (service, process):
        print(f"page: {service.page}", file=sys.stderr, flush=True)
        return process.wait()


@contextmanager
def _started(
    port: int, host: str, timeout: float, output: IO[Any] | None, options: Mapping[str, Any]
) -> Iterator[tuple[Running, subprocess.Popen[bytes]]]:
    argv, env = command(port=port, host=host, **options)
    patience = _patience(env)
    key = _secrets(env, host)
    env["EOLGUL_END_WITH_PARENT"] = "1"
    log = output or 2  # 2: the descriptor, since sys.stderr may be no real file
    process = subprocess.Popen(argv, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    service = Running(f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}", key)
    try:
        with _sigterm_exits():
            wait_ready(service.url, process, timeout)
            yield service, process
    finally:
        stop(process, patience)


def _patience(env: Mapping[str, str]) -> float:
    """Seconds a stop may take: the drain, then the deadline of the last request accepted, then some for the end.
    InputError for a setting that is no number."""
    patience = 10.0
    for setting in ("drain_s", "deadline_s"):
        name = f"EOLGUL_{setting.upper()}"
        value = env.get(name) or Settings.model_fields[setting].default
        try:
            patience += float(value)
        except ValueError:
            raise InputError(f"{name}: expected seconds, got {value!r}") from None
    return patience


@contextmanager
def _sigterm_exits() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(signum: int, frame: object) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_ready(url: str, process: subprocess.Popen[bytes], timeout: float = 60.0) -> None:
    """Return when `url`/readyz answers 200. InputError when the process ends, says why it has no model, or `timeout`
    seconds pass; the process is left to the caller."""
    deadline = time.monotonic() + timeout
    reason = "it does not answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise InputError(f"the service ended with status {process.returncode} before it was ready")
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except urllib.error.HTTPError as error:
            reason = _reason(error.read())
            if reason != LOADING:
                raise InputError(f"the service has no model to serve: {reason}") from error
        except OSError:
            pass  # not listening yet
        time.sleep(0.1)
    raise InputError(f"the service at {url} was not ready after {timeout:.0f} s: {reason}")


def stop(process: subprocess.Popen[bytes], timeout: float = 35.0) -> None:
    """End the service: SIGTERM to the supervisor, which lets its workers finish; SIGKILL to its group after `timeout`
    seconds. The workers end by themselves when the supervisor dies (`eolgul.serving.service`)."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"cannot serve on {host}:{port}: {error.strerror}; choose another port") from error


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:200]
