"""What all tests share: the research data where it is, a real S3, and one thread a process."""

from __future__ import annotations

import os

# Before numpy and torch are imported: two cores oversubscribed make everything many times slower.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

from eolgul import storage  # noqa: E402
from eolgul.demo import embedded  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Research data (half of LFW, ORL, K-FACE protocol lists, a real .bin): EOLGUL_SHARED, else ../shared/data."""
    place = Path(os.environ.get("EOLGUL_SHARED", ROOT.parent / "shared" / "data"))
    if not (place / "orl").is_dir():
        pytest.skip(f"research data is not at {place} (set EOLGUL_SHARED); it cannot be shipped")
    return place


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real SeaweedFS for the session, with `eolgul.storage` pointed at it; yields `s3://<bucket>`."""
    folder = tmp_path_factory.mktemp("s3")
    with embedded.s3(folder, patient=False) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment(folder / "cache").items():
            patch.setenv(name, value)
        storage.forget_settings()
        storage.make_bucket("s3://tests")
        yield "s3://tests"
    storage.forget_settings()
