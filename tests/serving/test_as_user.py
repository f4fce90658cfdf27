"""The service's own tests once more, as a container runs it: uid 10001 without capabilities, on a read-only root.

Root may do what a pod may not: attach filters to sockets, write any file, mount. `make test` often runs as root.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support import pod_user
from support.places import ROOT, TESTS

pytestmark = pytest.mark.timeout(1800)
# What depends on privilege most: the end of a service, a full disk, keys and who may read them.
CHOSEN: tuple[str, ...] = (
    "transport/test_drain.py::test_no_accepted_request_fails[0]",
    "faults/test_store_faults.py::test_a_full_disk",
    "access/test_keys.py",
    "test_keyring.py",
)
# With EOLGUL_TEST_AS_USER=1: all that starts services, some minutes.
ALL: tuple[str, ...] = ("transport", "faults", "access", "inference/test_loader.py", "inference/test_cache.py")
ALL += tuple(f"test_{name}.py" for name in ("keyring", "launch", "waiting", "workers"))


def as_user(folder: Path, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(TESTS)]),
        "EOLGUL_TEST_SMALL_DISK": str(folder / "small"),
    }
    environment.pop("XDG_CACHE_HOME", None)
    argv = pod_user.command(folder, argv)
    return subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that this user reaches: pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="pod-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        if reason := pod_user.why_not(folder):
            pytest.skip(reason)
        yield folder


def test_the_user_has_no_rights(folder: Path) -> None:
    code = (
        "import os\n"
        "assert os.getuid() == 10001\n"
        "def refused(what):\n"
        "    try: what()\n"
        "    except OSError: return True\n"
        "print([\n"
        "    refused(lambda: open('/etc/eolgul-test', 'w')),\n"
        f"    refused(lambda: open({str(ROOT / 'eolgul-test')!r}, 'w')),\n"
        "    refused(lambda: os.setuid(0)),\n"
        "])"
    )
    done = as_user(folder, [sys.executable, "-c", code])
    assert done.stdout.strip() == "[True, True, True]", done.stderr


def test_the_services_tests_pass(folder: Path) -> None:
    chosen = ALL if "EOLGUL_TEST_AS_USER" in os.environ else CHOSEN
    options = ["-p", "no:cacheprovider", "-q", "-rs", f"--basetemp={folder / 'tmp' / 'pytest'}"]
    done = as_user(folder, [sys.executable, "-m", "pytest", *options, *(f"tests/serving/{name}" for name in chosen)])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    if chosen is CHOSEN:  # none of them may hide behind a reason
        assert "SKIPPED" not in done.stdout, done.stdout[-2000:]
