"""Look at a sample of the extracted images: do the faces lie on the template, and are red and blue in their places?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eolgul.dataset import DatasetBuild
from eolgul.extract.config import ExtractConfig


def look_at(build: DatasetBuild, source: Path, config: ExtractConfig, *, aligned: bool) -> dict[str, Any]:
    """X."""
    return {}
