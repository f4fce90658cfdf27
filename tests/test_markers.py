"""The markers' tables, and the guard behind `process`: no way to start a process gets past it."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
from collections.abc import Callable

import pytest
from support.jobs import double
from support.markers import BY_PLACE, FAST, FIRST
from support.places import ROOT, TESTS
from support.processes import ProcessStartedError, forbidden

from eolgul import workers

WAYS: dict[str, Callable[[], object]] = {
    "subprocess": lambda: subprocess.run(["true"], check=True),
    "os.fork": os.fork,
    "os.system": lambda: os.system("true"),
    "os.posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "multiprocessing, fork": lambda: multiprocessing.get_context("fork").Process(target=print).start(),
    "multiprocessing, spawn": lambda: multiprocessing.get_context("spawn").Process(target=print).start(),
    "multiprocessing, forkserver": lambda: multiprocessing.get_context("forkserver").Process(target=print).start(),
}


def test_the_tables_name_what_is_there() -> None:
    assert [place for place in (*BY_PLACE, *FIRST) if not (TESTS / place).exists()] == []
    assert f'-m "{FAST}"' in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("way", WAYS)
def test_no_process_is_started_without_the_marker(way: str) -> None:
    with forbidden() as started, pytest.raises(ProcessStartedError):
        WAYS[way]()
    assert len(started) == 1


def test_the_pool_runs_its_jobs_here() -> None:
    assert list(workers.map_in_order(double, range(5), 2)) == [0, 2, 4, 6, 8]


@pytest.mark.process
def test_with_the_marker_they_start() -> None:
    subprocess.run(["true"], check=True)
    assert list(workers.map_in_order(double, range(5), 2)) == [0, 2, 4, 6, 8]
