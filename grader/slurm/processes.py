"""Processes by pid and start time, so that a number that was given out again is never taken for the process
that had it before. Linux only, as Slurm is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

MARK = "GRADE_SLURM"  # in the environment of a cluster's keeper and daemons, and of no job and no user's shell: its directory


def boot() -> str:
    """Which boot of the machine this is: pids and start times begin anew with each."""
    with open("/proc/sys/kernel/random/boot_id") as f:
        return f.read().strip()


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of this process; None if there is none, or only a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            fields = f.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def identity(pid: int) -> dict:
    return {"pid": pid, "start": start_time(pid)}


def alive(known: dict) -> bool:
    """Whether the very process that `identity` saw still runs."""
    return known.get("start") is not None and start_time(known["pid"]) == known["start"]


def send(known: dict, number: int) -> bool:
    """Signal that process and no other; whether it was there. The handle pins it: no other can get the pid in between."""
    try:
        handle = os.pidfd_open(known["pid"])
    except ProcessLookupError:
        return False
    except OSError:  # a kernel before 5.3, or a sandbox that lacks the call
        if alive(known):
            with suppress(ProcessLookupError):
                os.kill(known["pid"], number)
                return True
        return False
    try:
        if not alive(known):
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def descendants(pid: int) -> list[int]:
    """Every process below this one, at this moment, parents before children; zombies too."""
    found, todo = [], [pid]
    while todo:
        with suppress(OSError):
            parent = todo.pop()
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children") as f:
                    below = [int(p) for p in f.read().split()]
                found += below
                todo += below
    return found


def belonging(directory: str) -> list[int]:
    """Living processes of the cluster in this directory, by their environment: its keeper, its daemons, and what
    its slurmd started. A shell or an salloc of the user's, which only talks to the cluster, isn't one."""
    mark, conf = f"{MARK}={directory}".encode(), f"SLURM_CONF={directory}/slurm.conf".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as f:
                environment = f.read().split(b"\0")
        except OSError:  # ended meanwhile, or somebody else's
            continue
        in_job = conf in environment and any(e.startswith(b"SLURMD_NODENAME=") for e in environment)
        if (mark in environment or in_job) and start_time(int(name)) is not None:
            found.append(int(name))
    return found


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], seconds: float, pause: Callable[[float], None] = time.sleep) -> bool:
    """Look until it holds, at growing distances of at most 0.1 s; False if it never did within the time."""
    deadline, distance = time.monotonic() + seconds, 0.005
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause(distance)
        distance = min(0.1, distance * 1.5)
    return True
