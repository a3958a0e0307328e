"""Ends a cluster from outside, whatever its state, and shows what its daemons logged."""

from __future__ import annotations

import os
import signal
import stat
from contextlib import suppress
from pathlib import Path

from grader.harness import scratch
from grader.processes import wait_until
from grader.slurm import freezer, processes, state
from grader.slurm.errors import ClusterError

PROMPTLY = 15.0  # s in which a keeper ends all; measured: 0.1


def end(directory: Path) -> None:
    """End the cluster in this directory and remove it; nothing to do if there is none. Daemons that
    are dead, a keeper that is, a start that was cut short: all the same. ClusterError if something
    resists.
    """
    known = state.read(directory)
    if known and state.alive(known, known["keeper"]):
        processes.send(known["keeper"], signal.SIGTERM)
        processes.send(known["keeper"], signal.SIGCONT)  # should it be stopped
        wait_until(lambda: not processes.alive(known["keeper"]), PROMPTLY)
    left = sweep(directory, known)
    remove(directory)
    if left:
        raise ClusterError(
            f"processes of the cluster in {directory} can't be killed: {', '.join(map(str, left))}"
        )


def sweep(directory: Path, known: dict | None) -> list[int]:
    """Kill what a keeper that died left behind; what can't be killed."""
    top = Path(known["freezer"]) if known and known["now"] and "freezer" in known else None
    own = [known["keeper"], *known["daemons"].values()] if known and known["now"] else []
    left: list[int] = []

    def gone() -> bool:
        roots = processes.belonging(str(directory)) + [d["pid"] for d in own if processes.alive(d)]
        if top and top.exists():
            roots += freezer.members(top)
        below = [pid for root in roots for pid in processes.descendants(root)]
        left[:] = sorted(
            {p for p in roots + below if processes.start_time(p) is not None} - {os.getpid()}
        )
        processes.kill(left)
        if top and top.exists():
            freezer.thaw(top)
        return not left

    wait_until(gone, 10)
    if top and top.exists():
        wait_until(lambda: freezer.remove(top), 2)
    return left


def remove(directory: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.lstat(directory).st_mode):
            raise ClusterError(f"{directory} isn't a cluster's directory; it's left alone")
        scratch.remove(directory)
    if os.path.lexists(directory):
        raise ClusterError(f"{directory} can't be removed")


def log_tail(directory: Path, name: str, lines: int) -> str:
    """The last lines that a daemon wrote: to its log, or at its start elsewhere."""
    files = (
        [directory / "munge" / "log"] if name == "munged" else [directory / "log" / f"{name}.log"]
    )
    said = []
    for file in [directory / "log" / f"{name}.out", *files]:
        with suppress(OSError):
            said += (
                scratch.read(file, 20_000, tail=True).decode(errors="replace").splitlines()[-lines:]
            )
    return "\n".join(said)


def last_lines(directory: Path) -> list[str]:
    """For an error: the last two lines of each daemon."""
    names = [p.stem for p in sorted((directory / "log").glob("*.out"))]
    return [
        f"  {name}: {line}" for name in names for line in log_tail(directory, name, 2).splitlines()
    ]
