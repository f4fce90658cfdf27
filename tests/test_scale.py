"""A million rows keep to the bounds of memory and grow no faster than their number, with few open files and a pod's /dev/shm."""

from __future__ import annotations

import importlib.util
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support.places import ROOT

SCRIPT = ROOT / "benchmarks" / "scale.py"
SIZES = (250_000, 1_000_000)
FILES = 256


PODS_SHM = 64  # MB of /dev/shm, what Kubernetes gives


def as_in_a_pod() -> list[str]:
    """What starts a command with a pod's /dev/shm; nothing where a private mount is not allowed."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        return []
    return ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={PODS_SHM}m tmpfs /dev/shm && exec "$@"', "sh"]


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of each stage by size."""
    done = subprocess.run(
        [*as_in_a_pod(), sys.executable, "-P", str(SCRIPT), "--json", "--rows", *map(str, SIZES)],
        cwd=tmp_path_factory.mktemp("scale"),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=few_files,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def check() -> Callable[[dict[int, Any]], list[str]]:
    """`check` of the benchmark."""
    spec = importlib.util.spec_from_file_location("scale", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[dict[int, Any]], list[str]] = module.check
    return found


def test_every_stage_keeps_to_its_bounds(
    measured: dict[str, Any], check: Callable[[dict[int, Any]], list[str]]
) -> None:
    assert check({int(rows): stages for rows, stages in measured.items()}) == []


def test_more_memory_and_quadratic_time_are_found(
    measured: dict[str, Any], check: Callable[[dict[int, Any]], list[str]]
) -> None:
    worse = {int(rows): json.loads(json.dumps(stages)) for rows, stages in measured.items()}
    worse[SIZES[1]]["open"]["peak"] = 375 * SIZES[1]  # bytes per row; what opening took when every column was kept
    worse[SIZES[0]]["pairs"]["cpu"], worse[SIZES[1]]["pairs"]["cpu"] = 1.0, 16.0
    assert [text.partition(":")[0] for text in check(worse)] == ["open", "pairs"]
