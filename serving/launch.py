"""Start and stop the service as a child process, as `eolgul serve` and the demo do."""

from __future__ import annotations

import ipaddress
import json
import math
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
from eolgul.serving import LOADING, READING, REPEAT_S
from eolgul.serving.access.keys import SCOPES, new_key, read_keys
from eolgul.serving.keyring import Keyring, new_line
from eolgul.serving.settings import Settings
from eolgul.serving.transport import bentoml_off
from eolgul.storage import is_s3

READY_S = 180.0  # on a busy machine the imports alone took over a minute; a process that ends is noticed at once
_LOCAL_RATE = 1_000_000  # requests per minute of the key for this machine, in effect no limit


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
    """The arguments and the complete environment of the process that serves.

    Start the process with `start_new_session=True` and end it with `stop`, or use `running`.

    Args:
        port: The port.
        host: The IP address to listen on.
        registry: `s3://bucket/key` or a folder; its production model is served.
        model: A model package folder, instead of a registry.
        redis_url: The Redis of the embedding cache.
        gallery_url: The Redis of the gallery.
        threads: ONNX Runtime threads of one inference.
        concurrency: Images processed at the same time.
        home: Folder for BentoML's own state, which includes the metrics of all workers. Two services must not share one,
            so the default contains the port.
        environment: The values that are not given here, such as S3 credentials and `EOLGUL_*` settings (default: the
            environment of this process).

    Raises:
        InputError: The port is in use; another service would answer instead of this one.
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
    if registry or model:  # an argument replaces both variables of the environment
        env.pop("EOLGUL_REGISTRY", None)
        env.pop("EOLGUL_MODEL", None)
    env.update({name: str(value) for name, value in given.items() if value})
    _make_paths_absolute(env)
    if ipaddress.ip_address(host).is_loopback:
        env.setdefault("EOLGUL_DRAIN_S", "0")  # no load balancer knows an address of this machine only
    bentoml_off.set_environment(env)
    env["BENTOML_HOME"] = str(home)
    # Neither Python nor BentoML may import from the working directory, which anybody may own: BentoML puts its
    # `--working-dir` first on sys.path, so that is the private folder `home`, and PYTHONSAFEPATH removes Python's entry.
    env["PYTHONSAFEPATH"] = "1"
    env.setdefault("OMP_NUM_THREADS", env.get("EOLGUL_THREADS", "1"))
    arguments = ["serve", "eolgul.serving.service:FaceVerification", "--working-dir", str(home), "--host", host]
    return [sys.executable, "-P", "-m", "bentoml", *arguments, "--port", str(port)], env


def _make_paths_absolute(env: dict[str, str]) -> None:
    """Resolve relative paths against the working directory of this process, since the service has another one."""
    files = [name for name, field in Settings.model_fields.items() if field.annotation in (Path, Path | None)]
    for name in ("EOLGUL_REGISTRY", "EOLGUL_S3_CACHE", *(f"EOLGUL_{name.upper()}" for name in files)):
        if (location := env.get(name)) and not is_s3(location):
            env[name] = str(Path.cwd() / Path(location).expanduser())


@dataclass(frozen=True, slots=True)
class Running:
    """A service that answers requests.

    Attributes:
        url: `http://host:port`.
        key: The API key made for this run; None if the settings name a file of keys.
    """

    url: str
    key: str | None

    @property
    def page(self) -> str:
        """The URL of the web page; the key is in the fragment, which a browser never sends."""
        return f"{self.url}/ui/" + (f"#key={self.key}" if self.key else "")

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers that authenticate a request."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


def _create_keys(env: dict[str, str], host: str, wait: bool) -> str | None:
    """Create the keys that the settings do not name: an API key for this run and a permanent encryption key.

    An API key is created only for a service that no other machine can reach. With `wait`, the service itself reads the
    files that are named, when they come.

    Returns:
        The API key created for this run, or None.

    Raises:
        InputError: No API keys are set for a service that other machines can reach, or a file of keys is not valid.
    """
    home = Path(env["BENTOML_HOME"])
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not env.get("EOLGUL_ENCRYPTION_KEYS_FILE"):
        file = home / "encryption-keys"
        if not file.exists():
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(new_line() + "\n")
        env["EOLGUL_ENCRYPTION_KEYS_FILE"] = str(file)
    if not wait:  # an error is one sentence here, but a traceback in each worker
        Keyring.read(Path(env["EOLGUL_ENCRYPTION_KEYS_FILE"]))
    if env.get("EOLGUL_AUTH") == "off":
        return None
    if env.get("EOLGUL_API_KEYS_FILE"):
        if not wait:
            read_keys(Path(env["EOLGUL_API_KEYS_FILE"]))
        return None
    if not ipaddress.ip_address(host).is_loopback:
        raise InputError(
            f"other machines can reach {host}: set EOLGUL_API_KEYS_FILE (make one: eolgul key new), or EOLGUL_AUTH=off"
        )
    file = home / "api-keys.json"
    file.unlink(missing_ok=True)  # a key for one run ends with it
    key, _ = new_key(file, tenant="local", scopes=SCOPES, requests_per_minute=_LOCAL_RATE, note="made by eolgul serve")
    env["EOLGUL_API_KEYS_FILE"] = str(file)
    return key


@contextmanager
def running(
    *, port: int, host: str = "127.0.0.1", timeout: float = READY_S, output: IO[Any] | None = None, **options: Any
) -> Iterator[Running]:
    """Serve while the block runs.

    No process is left however the block ends: meanwhile SIGTERM raises SystemExit (main thread only), and if this process
    is killed, the kernel ends the service.

    Args:
        port: The port.
        host: The IP address to listen on.
        timeout: Seconds until the service must be ready.
        output: File for the service's log (default: standard error, so that standard output stays this process's own).
        options: As for `command`.

    Yields:
        The address of the service and its key.

    Raises:
        InputError: The service cannot start.
    """
    with _started(port, host, output, options, wait=False) as (service, process):
        wait_ready(service.url, process, timeout)
        yield service


def serve(*, port: int, host: str = "127.0.0.1", wait: bool | None = None, **options: Any) -> int:
    """Serve until SIGTERM (SystemExit) or Ctrl-C (KeyboardInterrupt). Arguments as for `running`.

    Args:
        port: The port.
        host: The IP address to listen on.
        wait: Whether a service without a model, without its store or without its keys waits for them, with /readyz 503
            and the reason, instead of ending with that reason. None: wait if nobody is at a terminal.
        options: As for `command`.

    Returns:
        The exit status of the service, if it ends by itself.

    Raises:
        InputError: The service cannot start.
    """
    wait = not _at_terminal() if wait is None else wait
    with _started(port, host, None, options, wait=wait) as (service, process):
        print(f"listening on {_url(host, port)}", file=sys.stderr, flush=True)
        wait_ready(service.url, process, math.inf if wait else READY_S, patient=wait)
        print(f"page: {service.page}", file=sys.stderr, flush=True)
        return process.wait()


def _at_terminal() -> bool:
    return any(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


@contextmanager
def _started(
    port: int, host: str, output: IO[Any] | None, options: Mapping[str, Any], *, wait: bool
) -> Iterator[tuple[Running, subprocess.Popen[bytes]]]:
    argv, env = command(port=port, host=host, **options)
    stop_timeout = _stop_timeout(env)
    env["EOLGUL_WAIT"] = str(wait).lower()
    key = _create_keys(env, host, wait)
    env["EOLGUL_END_WITH_PARENT"] = "1"
    log = output or 2  # 2: the descriptor, since sys.stderr may not be a real file
    process = subprocess.Popen(argv, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # every address: the loopback interface among them
    service = Running(_url(here, port), key)
    try:
        with _sigterm_exits():
            yield service, process
    finally:
        stop(process, stop_timeout)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _stop_timeout(env: Mapping[str, str]) -> float:
    """Seconds that a stop may take: the drain, then the deadline of the last accepted request, then 10 s.

    Raises:
        InputError: A setting is not a number.
    """
    seconds = 10.0
    for setting in ("drain_s", "deadline_s"):
        name = f"EOLGUL_{setting.upper()}"
        value = env.get(name) or Settings.model_fields[setting].default
        try:
            seconds += float(value)
        except ValueError:
            raise InputError(f"{name}: expected seconds, got {value!r}") from None
    return seconds


@contextmanager
def _sigterm_exits() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def exit_on(signum: int, frame: object) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, exit_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_ready(url: str, process: subprocess.Popen[bytes], timeout: float = READY_S, *, patient: bool = False) -> None:
    """Wait until `url`/readyz answers 200. The caller ends the process.

    With `patient`, a service that has nothing to serve is waited for; each new reason is a line on standard error, and one that
    lasts is repeated every `REPEAT_S` seconds.

    Raises:
        InputError: The process ended, `timeout` seconds passed, or, without `patient`, the service cannot load a model.
    """
    deadline = time.monotonic() + timeout
    reason, said_at = "it does not answer", -math.inf
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise InputError(f"the service ended with status {process.returncode} before it was ready")
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except urllib.error.HTTPError as error:
            before, reason = reason, _reason(error.read())
            starting = reason == LOADING or reason.startswith(READING)
            if not starting and not patient:
                raise InputError(f"the service has no model to serve: {reason}") from error
            if not starting and (reason != before or time.monotonic() - said_at >= REPEAT_S):
                print(f"not ready: {reason}", file=sys.stderr, flush=True)
                said_at = time.monotonic()
        except OSError:
            pass  # not listening yet
        time.sleep(1.0 if patient else 0.1)
    raise InputError(f"the service at {url} was not ready after {timeout:.0f} s: {reason}")


def stop(process: subprocess.Popen[bytes], timeout: float = 35.0) -> None:
    """End the service: SIGTERM to the supervisor, which lets its workers finish; SIGKILL to its group after `timeout` seconds.

    The workers end by themselves when the supervisor ends (`eolgul.serving.service`).
    """
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
