"""One thing about processes: how a child ends with its parent."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when the thread that started it ends, even by SIGKILL.

    BentoML's workers have sessions of their own, so no signal to the supervisor's group reaches them. Linux only;
    elsewhere a stop must be orderly.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
