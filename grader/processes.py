"""What one process may ask of the kernel about others: to end with its parent, to reap orphans."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# looked up here, once: between fork and exec nothing may be imported
_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def die_with_parent() -> None:
    """From now on, the kernel kills this process when its parent ends. Linux only; elsewhere
    nothing happens.
    """
    if _prctl:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def reap_descendants() -> bool:
    """Whether this process gets its descendants' orphans from now on: on Linux."""
    if _prctl is None:
        return False
    return _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as f:
            return [int(pid) for pid in f.read().split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        import psutil

        return [p.pid for p in psutil.Process().children()]
