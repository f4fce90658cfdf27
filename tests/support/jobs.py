"""Tasks for worker processes, in a module that they can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from eolgul.workers import report


def double(number: int) -> int:
    report(number)
    return 2 * number


def fail_at_three(number: int) -> int:
    if number == 3:
        raise ZeroDivisionError
    time.sleep(60 if number == 0 else 0)
    return number


def kill_itself(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def note_and_wait(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    report(1)
    time.sleep(60)
