"""Read which training identities an audit found, so that `assemble` leaves them out."""

from __future__ import annotations

import json
from pathlib import Path

from eolgul.errors import InputError


def read_exclusion(place: Path) -> set[str]:
    """The identities, `<source>.<name>`, of an Audit's folder or its `audit.json`.

    Raises:
        InputError: It is neither.
    """
    file = place / "audit.json" if place.is_dir() else place
    try:
        value = json.loads(file.read_bytes())
        names = value["exclude"]
        if value["format"] != 1 or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("exclude")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{file}: expected the audit.json of `eolgul audit`, format 1") from error
    return set(names)
