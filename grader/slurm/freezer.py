"""The v1 freezer cgroup, where proctrack/cgroup keeps track of jobs. Every cluster gets its own
subtree: two clusters, or a site's own Slurm, would both keep job 1 of node n1 in
slurm_n1/uid_0/job_1, and end each other's.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup/freezer")


def possible() -> bool:
    """Whether this process may make freezer cgroups: root where the v1 hierarchy is mounted and
    writable.
    """
    probe = ROOT / f"grade-probe-{os.getpid()}"
    try:
        if os.geteuid() != 0 or not (ROOT / "tasks").exists():
            return False
        probe.mkdir()
        made = (probe / "freezer.state").exists()  # and isn't a directory like any other
        probe.rmdir()
        return made
    except OSError:
        return False


def place(token: str) -> Path:
    return ROOT / f"grade-{token}"


def _groups(top: Path) -> list[Path]:
    """The subtree, leaves first."""
    return [Path(folder) for folder, _, _ in os.walk(top, topdown=False)]


def members(top: Path) -> list[int]:
    """Pids of every process in the subtree."""
    found = []
    for group in _groups(top):
        with suppress(OSError):
            found += [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    return found


def thaw(top: Path) -> None:
    """Thaw the processes: a frozen one doesn't die of SIGKILL before that."""
    for group in reversed(_groups(top)):
        with suppress(OSError):
            (group / "freezer.state").write_text("THAWED")


def remove(top: Path) -> bool:
    """Remove the subtree; return whether it is gone (it stays while a process is left in it)."""
    for group in _groups(top):
        with suppress(OSError):
            group.rmdir()
    return not top.exists()
