"""Folders of one process in the cache, removed at its end; what killed processes have left behind goes, too."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from eolgul.storage.s3 import settings


@contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """A new folder below `.<kind>` in the cache. It is locked as long as the block runs, so that others know it is in use."""
    root = settings().cache / f".{kind}"
    root.mkdir(parents=True, exist_ok=True)
    # A folder that is new and not locked yet must not look left behind.
    with root.with_name(f"{root.name}.lock").open("a") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        for old in root.iterdir():
            # Its owner may remove it in this moment.
            with suppress(FileNotFoundError), (old / "lock").open("a") as lock:
                if _locked(lock):
                    shutil.rmtree(old, ignore_errors=True)
        made = Path(tempfile.mkdtemp(dir=root))
        own = (made / "lock").open("a")
        _locked(own)
    with own:
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
