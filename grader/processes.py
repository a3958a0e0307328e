"""Process primitives: die with the parent, adopt orphans, kill a session, wait for a condition,
list descendants.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# looked up here, once: nothing may be imported between fork and exec
_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends. Does nothing outside Linux."""
    if _prctl:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def reap_descendants() -> bool:
    """Adopt the orphans of this process's descendants from now on; False outside Linux."""
    if _prctl is None:
        return False
    return _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def kill_session(pid: int) -> None:
    """Kill the process group that this process leads, and the process, which may not lead it yet.

    What has left the group isn't found.
    """
    for send in (os.killpg, os.kill):
        try:
            send(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as f:
            return [int(pid) for pid in f.read().split()]
    except OSError:  # the kernel lacks CONFIG_PROC_CHILDREN
        import psutil

        return [p.pid for p in psutil.Process().children()]


def descendants() -> Iterator[int]:
    """This process's children and all below them; none where there is no /proc."""
    todo = children() if os.path.exists("/proc/self/statm") else []
    while todo:
        pid = todo.pop()
        yield pid
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children") as f:
                    todo += map(int, f.read().split())
        except OSError:
            pass  # it has ended in the meantime


def wait_until(
    condition: Callable[[], bool],
    seconds: float,
    pause: Callable[[float], None] = time.sleep,
    *,
    at_most: float = 0.1,
) -> bool:
    """Check the condition until it holds; False if it doesn't in time. For conditions without an
    event to wait for.

    pause    waits between two looks, for a time that grows to `at_most` s
    """
    deadline, distance = time.monotonic() + seconds, min(0.005, at_most)
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause(distance)
        distance = min(at_most, distance * 1.5)
    return True
