"""A real Prometheus and a real Alertmanager that watch a service with the project's rules, and what they saw.

Durations of the rules may be divided, so that an alert that takes ten minutes in a cluster takes some seconds in a test.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from support.http_server import http_server
from support.places import ROOT
from support.serving import free_port

RULES = ROOT / "k8s" / "monitoring" / "rules.yaml"
DASHBOARD = RULES.with_name("dashboard.json")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# A duration in brackets, after `offset`, or as a value: [5m], [7d:10m], offset 1h, 10m.
_DURATION = re.compile(r"(?<=[\[: ])(\d+)([smhd])(?=[\]: )]|$)")


def scaled(text: str, factor: float) -> str:
    """An expression or a duration with every duration divided by `factor`, never below one second."""

    def divide(match: re.Match[str]) -> str:
        seconds = int(match[1]) * _UNIT_S[match[2]]
        return f"{max(1, round(seconds / factor))}s"

    return _DURATION.sub(divide, f" {text}")[1:]


def rules(factor: float) -> dict[str, Any]:
    """The project's rules as a file of Prometheus, with durations divided by `factor`."""
    groups: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["spec"]["groups"]
    for group in groups:
        group.pop("interval", None)
        for rule in group["rules"]:
            rule["expr"] = scaled(rule["expr"], factor)
            if "for" in rule:
                rule["for"] = scaled(rule["for"], factor)
    return {"groups": groups}


def panels(rate: str) -> Iterator[tuple[str, str]]:
    """Title and query of every panel of the dashboard, for all namespaces and with rates over a duration such as 10s."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$namespace", ".*").replace("$__rate_interval", rate)


@dataclass
class Watch:
    """What Prometheus and Alertmanager see of one service."""

    prometheus: httpx.Client
    told: list[tuple[float, str, str]] = field(default_factory=list)
    """Time in seconds since 1970, name of the alert, `firing` or `resolved`: as Alertmanager told its receiver."""

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        answer = self.prometheus.get("/api/v1/query", params={"query": expression})
        result: list[dict[str, Any]] = answer.raise_for_status().json()["data"]["result"]
        return result

    def states(self) -> dict[str, str]:
        """Alerts that are pending or firing."""
        return {one["metric"]["alertname"]: one["metric"]["alertstate"] for one in self.query("ALERTS")}

    def series(self, expression: str, begin: float, end: float, step: float) -> list[tuple[float, float]]:
        """Time and value of the first series of a range query."""
        asked: dict[str, str | float] = {"query": expression, "start": begin, "end": end, "step": step}
        result = self.prometheus.get("/api/v1/query_range", params=asked).raise_for_status().json()["data"]["result"]
        return [(float(at), float(value)) for at, value in result[0]["values"]] if result else []

    def wait(self, alert: str, state: str, seconds: float, *, since: float) -> float:
        """The seconds since `since` after which Alertmanager told of this state; fails when `seconds` are over."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for at, name, told in self.told:
                if at >= since and (name, told) == (alert, state):
                    return at - since
            time.sleep(0.1)
        raise AssertionError(f"{alert} is not {state} after {seconds} s; now {self.states()}, told {self.told}")


def _start(name: str, folder: Path, command: Callable[[int], list[str]]) -> tuple[subprocess.Popen[bytes], str]:
    """Start a program on a free port and wait until it is ready; somebody else may take the port first, so it is tried again."""
    file = folder / f"{name}.log"
    for _ in range(5):
        port = free_port()
        with file.open("wb") as log:
            process = subprocess.Popen(command(port), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + 30
        while time.monotonic() < until and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if (
                    httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=1).status_code == 200
                    and process.poll() is None
                ):
                    return process, f"127.0.0.1:{port}"
            time.sleep(0.1)
        process.kill()
        process.wait()
        if "address already in use" not in file.read_text():
            break
    raise AssertionError(file.read_text()[-1000:])


@contextmanager
def watching(service: str, folder: Path, factor: float = 1) -> Iterator[Watch]:
    """Watch the service at an address such as http://127.0.0.1:1; the test is skipped where a program is missing."""
    for program in ("prometheus", "prometheus-alertmanager"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed (Debian's prometheus, prometheus-alertmanager)")
    folder.mkdir(parents=True, exist_ok=True)
    told: list[tuple[float, str, str]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            for alert in json.loads(self.rfile.read(int(self.headers["content-length"])))["alerts"]:
                told.append((time.time(), alert["labels"]["alertname"], alert["status"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    every = f"{max(1, round(15 / factor))}s"
    with http_server(Receiver) as receiver, contextlib.ExitStack() as ends:
        hook = {"url": receiver, "send_resolved": True}
        (folder / "alertmanager.yml").write_text(yaml.safe_dump({
            "route": {"receiver": "test", "group_by": ["alertname"], "group_wait": "1s", "group_interval": every},
            "receivers": [{"name": "test", "webhook_configs": [hook]}],
        }))  # fmt: skip
        manager, at = _start("alertmanager", folder, lambda port: [
            "prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/manager",
            f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
        ])  # fmt: skip
        ends.callback(_end, manager)
        target = {"targets": [service.removeprefix("http://")], "labels": {"namespace": "eolgul", "pod": "serving-1"}}
        (folder / "rules.yml").write_text(yaml.safe_dump(rules(factor)))
        (folder / "prometheus.yml").write_text(yaml.safe_dump({
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": [str(folder / "rules.yml")],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [at]}]}]},
            "scrape_configs": [{"job_name": "eolgul/serving", "static_configs": [target]}],
        }))  # fmt: skip
        prometheus, at = _start("prometheus", folder, lambda port: [
            "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
            f"--web.listen-address=127.0.0.1:{port}",
        ])  # fmt: skip
        ends.callback(_end, prometheus)
        with httpx.Client(base_url=f"http://{at}", timeout=10) as client:
            yield Watch(client, told)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(20)


@contextmanager
def load(call: Callable[[], object], per_second: float) -> Iterator[None]:
    """Call this many times in a second at most, in a thread, until the end; one client's traffic."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(1 / per_second):
            call()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


def draw(watch: Watch, alert: str, share: str, limit: float, marks: dict[str, float], begin: float, file: Path) -> None:
    """The measured share and the alert's state against time, with what was done and what the receiver was told, as PNG."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib.figure import Figure

    end, step = time.time(), 15.0
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    values = watch.series(share, begin, end, step)
    above.plot([(at - begin) / 60 for at, _ in values], [value for _, value in values], color="#1f5fa8")
    above.axhline(limit, color="#888888", linestyle="--", linewidth=1)
    above.set_ylabel("failed share of the cache's look-ups")
    above.set_ylim(-0.05, 1.1)
    for state, colour in (("pending", "#e5b53a"), ("firing", "#c0392b")):
        found = watch.series(f"ALERTS{{alertname='{alert}',alertstate='{state}'}}", begin, end, step)
        if found:
            first, last = ((found[place][0] - begin) / 60 for place in (0, -1))
            below.barh(0, last - first, left=first, color=colour, label=state)
    told = {f"told: {state}": at for at, name, state in watch.told if name == alert}
    for text, at in (marks | told).items():
        for axes in (above, below):
            axes.axvline((at - begin) / 60, color="#444444", linewidth=1, linestyle=":")
        above.text((at - begin) / 60, 1.03, f" {text}", fontsize=8, va="bottom")
    below.set_yticks([])
    below.legend(loc="upper left", fontsize=8)
    below.set_xlabel("minutes")
    above.set_title(alert)
    figure.savefig(file, dpi=110)
