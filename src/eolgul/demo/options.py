"""What `make demo` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """See `eolgul demo --help` for each. `work` is absolute and holds everything the demo makes."""

    work: Path
    source: Path | None = None
    keep: bool = False
    people: int = 60
    rec_people: int = 150
    rec_images: int = 12
    bin_people: int = 40
    bin_pairs: int = 300
    min_images: int = 4
    max_identities: int = 200
    which: str = "largest"
    recipe: str = "demo"
    overrides: tuple[str, ...] = ()
    port: int = 3000
    workers: int = 2
