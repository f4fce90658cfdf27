"""Thousands of damaged and hostile files: each ends in a result or in a sentence, and nothing in them is ever run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support.places import TESTS


def test_damaged_and_hostile_files(tmp_path: Path) -> None:
    """In a process of its own, with 3 GB of address space and a few seconds a file; see tests/support/fuzzing.py.

    EOLGUL_FUZZ (seed:cases) looks elsewhere and longer.
    """
    seed, cases = os.environ.get("EOLGUL_FUZZ", "4:6000").split(":")
    argv = [sys.executable, "-W", "error", "-m", "support.fuzzing", str(tmp_path / "f"), seed, cases]
    (tmp_path / "f").mkdir()
    done = subprocess.run(argv, env=os.environ | {"PYTHONPATH": str(TESTS)},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, f"the process ended with {done.returncode}: {done.stderr[-3000:]}"
    found = json.loads(done.stdout)
    assert not found["wrong"], "\n".join(found["wrong"])
    assert not found["canary"] and found["hostile results"] == 0, "a hostile pickle was believed"
    total = sum(found["kinds"].values())
    assert total >= 5_000 and found["results"] + found["refusals"] == total
    assert min(found["kinds"].values()) >= 50 and min(found["results"], found["refusals"]) > 500
    assert found["peak_megabytes"] < 600
    print(json.dumps(found))
