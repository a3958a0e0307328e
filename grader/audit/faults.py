"""The faults of an audit. The probe inside the job makes most of them (boot/grade_audit_probe.py).

They fire at a step or at a file event, never by the clock.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from grader.audit.history import Save

GRACE = 30.0  # s between SIGTERM and SIGKILL: Kubernetes' and Slurm's default
# kinds
KILL, TEAR, TWICE, RANK, ELASTIC = "kill", "tear", "twice", "rank", "elastic"
SIGNAL, LIMIT, FULL, POWER = "signal", "limit", "full", "power"
TRUNCATE, FLIP, MISSING = "truncate", "flip", "missing"
DAMAGE = (TRUNCATE, FLIP, MISSING)  # what is done to the newest checkpoint of a killed job
WARNED = (SIGNAL, LIMIT)  # the job is told that its end is near

GROUPS = {
    KILL: "SIGKILL between saves",
    TEAR: "SIGKILL while a file is written",
    TWICE: "killed twice, resumed twice",
    RANK: "one rank killed",
    ELASTIC: "resumed on another number of ranks",
    LIMIT: "Slurm time limit",
    FULL: "disk full during a save",
    POWER: "power loss during a save",
    TRUNCATE: "newest checkpoint truncated",
    FLIP: "one bit of the newest checkpoint flipped",
    MISSING: "newest checkpoint lacks a file",
}


@dataclass(frozen=True)
class Fault:
    """What is done to one run. `spec` goes to the probe of its first life, `second` to the next."""

    kind: str
    title: str
    step: int  # the step after which it comes, in the undisturbed run
    spec: dict[str, Any] = field(default_factory=dict)
    second: dict[str, Any] | None = None
    place: float = 0.5  # of damage: where in the file, as a share of its size
    file: str = ""  # of damage: which file, with N for each number in its name

    @property
    def in_a_save(self) -> bool:
        return "event" in self.spec

    @property
    def group(self) -> str:
        """Its row in the table."""
        if self.kind == KILL and self.in_a_save:
            return "SIGKILL during a save"
        if self.kind == SIGNAL:
            return (
                f"{signal.Signals(self.spec['number']).name}, then SIGKILL after the grace period"
            )
        return GROUPS[self.kind]


def kill_after(step: int) -> Fault:
    return Fault(KILL, f"SIGKILL after step {step}", step, _kill(step))


def _kill(step: int) -> dict[str, Any]:
    return {"kind": "kill", "step": step, "rank": 0}


def kill_twice(step: int, more: int) -> Fault:
    title = f"SIGKILL after step {step}, and after {more} more"
    return Fault(TWICE, title, step, _kill(step), _kill(more))


def damage(kind: str, step: int, place: float = 0.5, file: str = "") -> Fault:
    what = {
        TRUNCATE: "newest file cut in half",
        FLIP: f"one bit of its newest file flipped, at {place:.0%} of its size",
        MISSING: f"{file} removed from the newest checkpoint",
    }[kind]
    return Fault(kind, f"SIGKILL after step {step}, {what}", step, _kill(step), None, place, file)


def send(number: signal.Signals, step: int, grace: float) -> Fault:
    """SIGTERM goes to the process that was started, SIGUSR1 to each rank."""
    rank = 0 if number == signal.SIGTERM else None
    spec = {"kind": "signal", "number": int(number), "step": step, "rank": rank, "grace": grace}
    return Fault(SIGNAL, f"{number.name} after step {step}", step, spec)


def time_limit(step: int, grace: float, seconds: float) -> Fault:
    """As of a job that Slurm gave a time limit, with --signal=USR1 at `grace` before its end.

    seconds  about how long the job takes to do `step` steps
    """
    spec = {"kind": "limit", "number": int(signal.SIGUSR1), "step": step, "rank": None}
    spec |= {"grace": grace, "ends_in": round(seconds + grace, 1)}
    title = f"time limit: SIGUSR1 after step {step}, SIGTERM in {grace / 2:g} s, then SIGKILL"
    return Fault(LIMIT, title, step, spec)


def lose_rank(rank: int, step: int) -> Fault:
    spec = {"kind": "kill alone", "step": step, "rank": rank}
    return Fault(RANK, f"SIGKILL of rank {rank} alone after step {step}", step, spec)


def resume_elsewhere(step: int, ranks: int) -> Fault:
    title = f"SIGKILL after step {step}, resumed on {ranks} rank{'s' * (ranks != 1)}"
    return Fault(ELASTIC, title, step, _kill(step))


def at_events(save: Save) -> list[Fault]:
    """A SIGKILL before each file event of a save, and inside each file that it writes."""
    faults = []
    for event, size, written in _events(save):
        where = {"event": event.number, "rank": 0}
        if size > 1:
            title = f"SIGKILL when {written} has {size // 2} of {size} bytes (step {save.step})"
            spec = {"kind": "tear", "bytes": size // 2, "size": size, **where}
            faults.append(Fault(TEAR, title, save.step, spec))
        title = f"SIGKILL before `{event.name}` (step {save.step})"
        faults.append(Fault(KILL, title, save.step, {"kind": "kill", **where}))
    return faults


def disk_full(save: Save, more: int) -> list[Fault]:
    """The disk is full when half of a file is written; SIGKILL after `more` steps without it.

    So a save that failed without a word is found, too: nothing later can replace it.
    """
    faults = []
    for event, size, written in _events(save):
        if size > 1:
            title = f"disk full when {written} has {size // 2} of {size} bytes (step {save.step})"
            spec = {"kind": "full", "bytes": size // 2, "size": size, "more": more}
            spec |= {"event": event.number, "rank": 0}
            faults.append(Fault(FULL, title, save.step, spec))
    return faults


def _events(save: Save) -> list[tuple[Any, int, str]]:
    """(event, size of the file that it begins to write or 0, its name)."""
    sizes = [event.size for event in save.events[1:]]
    found = []
    for event, size in zip_longest(save.events, sizes):
        if not event.ended:
            found.append((event, (size or 0) if event.writes else 0, event.path))
    return found
