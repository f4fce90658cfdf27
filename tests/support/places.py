"""Where the checkout, the test helpers and the research data lie."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
SHARED = Path(os.environ.get("EOLGUL_SHARED", ROOT.parent / "shared" / "data"))
