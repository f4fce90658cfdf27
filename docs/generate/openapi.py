"""Write docs/openapi.json, the OpenAPI document of the API, which a test compares with what the service says.

Usage: python docs/generate/openapi.py
"""

from __future__ import annotations

import json
from pathlib import Path

from reference_service import openapi

FILE = Path(__file__).resolve().parents[1] / "openapi.json"


def text() -> str:
    """The content of the file."""
    return json.dumps(openapi(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
