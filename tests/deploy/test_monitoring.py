"""Alerts, dashboard and PodMonitor: they name what the service exposes, each alert fires and has its section of the runbook."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.places import ROOT

FOLDER = ROOT / "k8s" / "monitoring"
RULES: dict[str, Any] = yaml.safe_load((FOLDER / "rules.yaml").read_text())["spec"]
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule}
RECORDED = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
# Not ours: Prometheus' own, and the kubelet's of containers.
FOREIGN = {
    "up": set(),
    "container_memory_working_set_bytes": {"container"},
    "container_spec_memory_limit_bytes": {"container"},
    "kubelet_volume_stats_available_bytes": {"persistentvolumeclaim"},
    "kubelet_volume_stats_capacity_bytes": {"persistentvolumeclaim"},
}
TARGET = {"namespace", "pod", "job", "le"}  # labels that Prometheus adds, and that of a histogram's buckets
_NAMES = re.compile(r"\b(eolgul(?::\w+)+|eolgul_\w+|up|(?:container|kubelet)_\w+)\b(?:\{([^}]*)\})?")


TOUCH = """
from eolgul.serving import metrics
for value in vars(metrics).values():
    if hasattr(value, "describe") and hasattr(value, "_labelnames"):
        one = value.labels(*["x"] * len(value._labelnames)) if value._labelnames else value
        getattr(one, "inc", getattr(one, "observe", None))(1)
print(metrics.exposition()[0].decode())
"""


@functools.cache
def _exposed() -> dict[str, set[str]]:
    """Every sample's name with its labels, as a service exposes them: from several processes, each metric used once."""
    from prometheus_client.parser import text_string_to_metric_families

    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": folder}
        done = subprocess.run(
            [sys.executable, "-c", TOUCH], env=environment, capture_output=True, text=True, check=True
        )
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(done.stdout):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_a_falling_sum_is_not_used() -> None:
    """Similarities may be negative, so their sum is not a counter."""
    assert "eolgul_similarity_bucket" in _exposed()
    assert not [where for where, query in queries() if "eolgul_similarity_sum" in query]


def queries() -> Iterator[tuple[str, str]]:
    for group in RULES["groups"]:
        for rule in group["rules"]:
            yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    yield "namespace", DASHBOARD["templating"]["list"][1]["definition"]


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_every_query_names_what_the_service_exposes(where: str, query: str) -> None:
    from eolgul.serving.problems import PROBLEMS
    from eolgul.serving.transport.middleware import route_of

    exposed = _exposed() | FOREIGN | {name: set[str]() for name in RECORDED}
    found = _NAMES.findall(re.sub(r"\bby \([^)]*\)|\bon \([^)]*\)", "", query))
    assert found
    for name, matchers in found:
        assert name in exposed, f"{where}: {name}"
        for label, words in re.findall(r'(\w+) *[=!]~?"([^"]*)"', matchers):
            assert label in exposed[name] | TARGET, f"{where}: {name} has no label {label}"
            if label == "code":
                assert set(words.split("|")) <= PROBLEMS.keys(), where
            if label == "route" and "*" not in words:
                routes = [words] if "(" not in words else [f"/v1/{one}" for one in words[5:-1].split("|")]
                assert all(route_of(route) == route for route in routes), f"{where}: {routes}"
    for words in re.findall(r"\bby \(([^)]*)\)", query):
        known = set().union(*(exposed[name] for name, _ in found)) | TARGET
        assert {word.strip() for word in words.split(",")} <= known, where


def test_a_share_of_refusals_is_one_of_the_calls_that_can_be_refused_so() -> None:
    """A route that answers no_face and is missing below makes the share too large, and more so the more it is used."""
    paths = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
    refuse = {
        path
        for path, operations in paths.items()
        for operation in operations.values()
        if "no_face" in json.dumps(operation["responses"].get("422", {}))
    }
    named = re.findall(r'route=~"/v1/\(([^)]*)\)"', ALERTS["EolgulNoFace"]["expr"])
    assert len(named) == 2 and all({f"/v1/{one}" for one in routes.split("|")} == refuse for routes in named)


def test_every_panel_follows_the_chosen_namespace() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            assert target["expr"].count('{namespace=~"$namespace"') == len(_NAMES.findall(target["expr"])), panel[
                "title"
            ]


def test_the_test_finds_a_name_that_is_not_there() -> None:
    with pytest.raises(AssertionError):
        test_every_query_names_what_the_service_exposes("x", "sum(rate(eolgul_request_total[5m]))")
    with pytest.raises(AssertionError):
        test_every_query_names_what_the_service_exposes("x", 'eolgul_verdicts_total{word="same"}')


def test_what_alerts_look_at_begins_at_zero() -> None:
    from eolgul.serving import metrics

    metrics.SWAPS.labels("refused")
    for counter, label, values in (
        (metrics.SWAPS, "outcome", {"swapped", "refused", "unreachable"}),
        (metrics.CACHE, "outcome", {"hit", "miss", "error"}),
        (metrics.VERDICTS, "verdict", {"same", "different", "undecided"}),
    ):
        [family] = counter.collect()
        assert values <= {sample.labels[label] for sample in family.samples}


def test_every_alert_has_its_section(root: Path) -> None:
    sections = set(re.findall(r"^## (Eolgul\w+)$", (root / "docs" / "runbook.md").read_text(), re.M))
    assert sections == ALERTS.keys()
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert rule["annotations"]["summary"].endswith(".") and rule["labels"]["severity"] in ("warning", "critical")


def test_the_podmonitor_reads_the_pods(rendered: Any, find_binary: Any) -> None:
    done = subprocess.run([find_binary("kubectl"), "kustomize", FOLDER], capture_output=True, text=True, check=True)
    documents = {document["kind"]: document for document in yaml.safe_load_all(done.stdout)}
    assert documents.keys() == {"PodMonitor", "PrometheusRule", "ConfigMap"}
    monitor, serving = documents["PodMonitor"]["spec"], rendered("production").named("Deployment", "serving")
    labels = serving["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    [endpoint] = monitor["podMetricsEndpoints"]
    [port] = serving["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert endpoint["port"] == port["name"] and endpoint["path"] == "/metrics"
    job = f"{documents['PodMonitor']['metadata']['namespace']}/{documents['PodMonitor']['metadata']['name']}"
    assert f'job="{job}"' in ALERTS["EolgulDown"]["expr"]
    assert json.loads(documents["ConfigMap"]["data"]["dashboard.json"]) == DASHBOARD


# ---- the alerts fire, and are quiet while all is well


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    own = {"namespace": "eolgul", "pod": "serving-1", "job": "eolgul/serving"} | labels
    text = ", ".join(f'{label}="{value}"' for label, value in own.items())
    return {"series": f"{name}{{{text}}}", "values": values}


V = {"route": "/v1/verify", "status": "200"}
WELL = [
    series("up", "1x700"),
    series("eolgul_model_info", "1x700", digest="d"),
    series("eolgul_requests_total", "0+600x700", **V),
    series("eolgul_requests_total", "0+1x700", route="/v1/verify", status="503"),
    series("eolgul_request_seconds_bucket", "0+590x700", route="/v1/verify", le="0.5"),
    series("eolgul_request_seconds_bucket", "0+600x700", route="/v1/verify", le="5.0"),
    series("eolgul_request_seconds_bucket", "0+600x700", route="/v1/verify", le="+Inf"),
    series("eolgul_cache_total", "0+600x700", outcome="hit"),
    series("eolgul_cache_total", "0x700", outcome="error"),
    series("eolgul_rejections_total", "0+5x700", code="no_face"),
    series("eolgul_model_swaps_total", "0x300 1x400", outcome="swapped"),
    series("eolgul_model_swaps_total", "0x700", outcome="refused"),
    series("eolgul_verdicts_total", "0+60x700", verdict="same"),
    series("eolgul_verdicts_total", "0+60x700", verdict="different"),
    series("eolgul_verdicts_total", "0+5x700", verdict="undecided"),
    series("container_memory_working_set_bytes", "1e9x700", container="serving"),
    series("container_spec_memory_limit_bytes", "3e9x700", container="serving"),
    series("kubelet_volume_stats_available_bytes", "3e9x700", persistentvolumeclaim="data-gallery-0"),
    series("kubelet_volume_stats_capacity_bytes", "4e9x700", persistentvolumeclaim="data-gallery-0"),
]
# When it must fire, and what differs from WELL.
FAULTS: dict[str, tuple[str, list[dict[str, str]]]] = {
    "EolgulDown": ("4m", [series("up", "1 0x700")]),
    "EolgulNoModel": ("12m", [series("up", "1x700", pod="serving-2")]),
    "EolgulErrors": ("11m", [series("eolgul_requests_total", "0+12x700", route="/v1/verify", status="500")]),
    "EolgulSlow": ("16m", [series("eolgul_request_seconds_bucket", "0+500x700", route="/v1/verify", le="0.5")]),
    "EolgulBusy": ("11m", [series("eolgul_rejections_total", "0+30x700", code="busy")]),
    "EolgulCacheDown": ("11m", [series("eolgul_cache_total", "0+600x700", outcome="error")]),
    "EolgulGalleryDown": ("6m", [series("eolgul_rejections_total", "0+1x700", code="gallery_unavailable")]),
    "EolgulModelRefused": ("6m", [series("eolgul_model_swaps_total", "0x4 1x700", outcome="refused")]),
    "EolgulRegistryUnreachable": ("20m", [series("eolgul_model_swaps_total", "0+3x700", outcome="unreachable")]),
    "EolgulNoFace": ("100m", [series("eolgul_rejections_total", "0+90x700", code="no_face")]),
    "EolgulQualityRefusals": ("100m", [series("eolgul_rejections_total", "0+90x700", code="too_small")]),
    "EolgulUndecided": ("100m", [series("eolgul_verdicts_total", "0+60x700", verdict="undecided")]),
    "EolgulUndecidedForQuality": ("100m", [series("eolgul_undecided_for_quality_total", "0+20x700", reason="blur")]),
    "EolgulVolume": (
        "15m",
        [series("kubelet_volume_stats_available_bytes", "5e8x700", persistentvolumeclaim="data-gallery-0")],
    ),
    "EolgulMemory": ("15m", [series("container_memory_working_set_bytes", "2.9e9x700", container="serving")]),
}
# Two days at a quarter of an hour, then eight hours of another kind.
DRIFT = [
    series("eolgul_verdicts_total", "0+900x192 173100+300x32", verdict="same"),
    series("eolgul_verdicts_total", "0+900x192 174300+1500x32", verdict="different"),
    series("eolgul_similarity_bucket", "0+700x192 134750+300x32", le="0.3"),
    series("eolgul_similarity_bucket", "0+1100x192 211700+700x32", le="0.4"),
    series("eolgul_similarity_bucket", "0+1800x224", le="0.8"),
    series("eolgul_similarity_bucket", "0+1800x224", le="+Inf"),
]


def merged(more: list[dict[str, str]]) -> list[dict[str, str]]:
    return list({one["series"]: one for one in [*WELL, *more]}.values())


@pytest.fixture(scope="module")
def rules_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules as promtool reads them. Summaries are left out of the tests: their templates are checked with the file."""
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    file = tmp_path_factory.mktemp("rules") / "whole.yml"
    file.write_text(yaml.safe_dump(RULES))
    subprocess.run(["promtool", "check", "rules", file], check=True, capture_output=True)
    bare = json.loads(json.dumps(RULES))
    for group in bare["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations", None)
    file.with_name("rules.yml").write_text(yaml.safe_dump(bare))
    return file.with_name("rules.yml")


def expected(alert: str, fires: bool, **labels: str) -> dict[str, Any]:
    one = {"exp_labels": {"severity": ALERTS[alert]["labels"]["severity"]} | labels}
    return {"alertname": alert, "exp_alerts": [one] if fires else []}


def labels_of(alert: str) -> dict[str, str]:
    if alert == "EolgulDown":
        return {}
    if alert == "EolgulNoModel":
        return {"namespace": "eolgul", "pod": "serving-2", "job": "eolgul/serving"}
    own = {"EolgulMemory": {"pod": "serving-1"}, "EolgulVolume": {"persistentvolumeclaim": "data-gallery-0"}}
    return {"namespace": "eolgul"} | own.get(alert, {})


def run(rules_file: Path, tests: list[dict[str, Any]], every: str = "1m") -> subprocess.CompletedProcess[str]:
    value = {"rule_files": [rules_file.name], "evaluation_interval": every, "tests": tests}
    file = rules_file.with_name("test.yml")
    file.write_text(yaml.safe_dump(value))
    return subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)


def test_each_alert_fires(rules_file: Path) -> None:
    assert FAULTS.keys() | {"EolgulAcceptShareDrift", "EolgulSimilarityDrift"} == ALERTS.keys()
    tests: list[dict[str, Any]] = []
    for alert, (minutes, more) in FAULTS.items():
        fires = {"eval_time": minutes, **expected(alert, True, **labels_of(alert))}
        quiet = {"eval_time": "1m", **expected(alert, False)}
        tests.append({"interval": "1m", "input_series": merged(more), "alert_rule_test": [quiet, fires]})
    done = run(rules_file, tests)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_drift_is_seen(rules_file: Path) -> None:
    checks: list[dict[str, Any]] = []
    for alert in ("EolgulAcceptShareDrift", "EolgulSimilarityDrift"):
        fires = expected(alert, True, namespace="eolgul")
        checks += [{"eval_time": "47h", **expected(alert, False)}, {"eval_time": "55h", **fires}]
    done = run(rules_file, [{"interval": "15m", "input_series": DRIFT, "alert_rule_test": checks}], "15m")
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_are_quiet_while_all_is_well(rules_file: Path) -> None:
    checks = [{"eval_time": at, **expected(alert, False)} for alert in ALERTS for at in ("3m", "60m", "310m")]
    done = run(rules_file, [{"interval": "1m", "input_series": WELL, "alert_rule_test": checks}])
    assert done.returncode == 0, done.stdout + done.stderr
