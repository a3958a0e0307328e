"""A process that ends with the one that started it."""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1
# looked up here, once: between fork and exec nothing may be imported
_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def die_with_parent() -> None:
    """From now on, the kernel kills this process when its parent ends. Linux only; elsewhere
    nothing happens.
    """
    if _prctl:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
