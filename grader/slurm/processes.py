"""Processes by pid and start time, so that a reused pid is never mistaken for the earlier process.
The real cluster needs Linux; the stand-in also runs where there is no /proc, and asks psutil there.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress

PROC = os.path.exists("/proc/self/stat")
if not PROC:
    import psutil

# in the environment of a cluster's keeper and daemons, and of no job and no user's shell: its
# directory
MARK = "GRADE_SLURM"


def boot() -> str:
    """Which boot of the machine this is: pids and start times restart with each."""
    if not PROC:
        return str(int(psutil.boot_time()))
    with open("/proc/sys/kernel/random/boot_id") as f:
        return f.read().strip()


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of this process (without /proc, microseconds since the
    epoch); None if there is none, or only a zombie.
    """
    if not PROC:
        try:
            process = psutil.Process(pid)
            return (
                None
                if process.status() == psutil.STATUS_ZOMBIE
                else int(process.create_time() * 1e6)
            )
        except psutil.Error:
            return None
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
    """Signal that process and no other; return whether it was there. The open handle keeps its pid
    from being reused in between.
    """
    try:
        handle = os.pidfd_open(known["pid"])
    except ProcessLookupError:
        return False
    except (OSError, AttributeError):  # a kernel before 5.3, a sandbox that lacks the call, macOS
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
    if not PROC:
        try:
            return [p.pid for p in psutil.Process(pid).children(recursive=True)]
        except psutil.Error:
            return []
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
    """Living processes of the cluster in this directory, by their environment: its keeper, its
    daemons, and what its slurmd started. A shell or an salloc of the user's, which only talks to
    the cluster, isn't one.
    """
    conf, found = f"{directory}/slurm.conf", []
    for pid, env in _environments():
        in_job = env.get("SLURM_CONF") == conf and "SLURMD_NODENAME" in env
        if (env.get(MARK) == directory or in_job) and start_time(pid) is not None:
            found.append(pid)
    return found


def with_environment(wanted: dict[str, str], without: str | None = None) -> list[int]:
    """Living processes that have all of this in their environment, but not the variable
    `without`."""
    return [
        pid
        for pid, env in _environments()
        if wanted.items() <= env.items() and without not in env and start_time(pid) is not None
    ]


def _environments() -> Iterable[tuple[int, dict[str, str]]]:
    """The environments of all processes that this one may read, without its own."""
    for pid in [int(n) for n in os.listdir("/proc") if n.isdigit()] if PROC else psutil.pids():
        if pid == os.getpid():
            continue
        if not PROC:
            with suppress(psutil.Error, OSError):
                yield pid, psutil.Process(pid).environ()
            continue
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                entries = os.fsdecode(f.read()).split("\0")
        except OSError:  # it has ended, or belongs to another user
            continue
        yield pid, dict(e.split("=", 1) for e in entries if "=" in e)


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
