"""A run: a training job to completion, across its lives, and what it reported."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from grader.harness import scratch
from grader.harness.faults import AnyFault, show_schedule
from grader.harness.preemption import Preempt
from grader.harness.trajectory import Trajectory

# exit status of a job that was asked to stop, has saved, and wants to run again (EX_TEMPFAIL)
PREEMPTED = 75
# the most JSON lists and objects to keep of a life's events: small in a file, large in memory
OBJECTS = 300_000
# the most bytes to read of a life's events; its guardian ends it earlier (Limits.events)
EVENTS = 40 << 20


def read_events(path: Path) -> list[dict[str, Any]]:
    """What processes reported to this file: one object a line; empty if there is no file.

    Lines that aren't events are skipped: the student's code may have torn or forged them.
    """
    try:
        lines = scratch.read(path, EVENTS).splitlines()
    except OSError:
        return []
    out, left = [], OBJECTS
    for line in lines:
        left -= 1 + line.count(b"{") + line.count(b"[")
        if left < 0:
            break
        try:
            out.append(json.loads(line))
        except (ValueError, RecursionError):
            pass
    return [e for e in out if _is_event(e)]


def _is_event(line: object) -> bool:
    """Has it what `telemetry.emit` writes with every event?"""
    return (
        isinstance(line, dict)
        and isinstance(line.get("event"), str)
        and isinstance(line.get("t"), float | int)
    )


@dataclass
class Life:
    """One process of a run, after its end."""

    folder: Path
    fault: AnyFault | None
    result: dict[str, Any]  # the guardian's

    @classmethod
    def of_events(cls, path: Path) -> Life:
        """A process that something else started: all we know is what it reported to `path`."""
        life = cls(path.parent, None, {"status": 0, "ended": None})
        life.events = read_events(path)
        return life

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        return read_events(self.folder / "events")

    @property
    def processes(self) -> list[Life]:
        return [self]

    def all(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e.get("event") == event]

    def first(self, event: str) -> dict[str, Any] | None:
        return next(iter(self.all(event)), None)

    @property
    def status(self) -> int:
        status: int = self.result["status"]
        return status

    @property
    def ended(self) -> str | None:
        ended: str | None = self.result["ended"]
        return ended

    @property
    def fault_fired(self) -> bool:
        return self.first("fault") is not None

    @property
    def preempted(self) -> bool:
        """It left by itself, with the exit status of a preempted job."""
        return self.status == PREEMPTED and not self.ended

    @property
    def obeyed_fault(self) -> bool:
        """It ended as its fault says, so a relaunch proves something."""
        if isinstance(self.fault, Preempt):
            return self.fault_fired and self.preempted
        return self.died_of_fault

    @property
    def died_of_fault(self) -> bool:
        """It announced the fault and then died by the signal that the fault sends."""
        return (
            self.fault_fired
            and self.status in (-signal.SIGKILL, -signal.SIGXFSZ)
            and not self.ended
        )

    @property
    def finished(self) -> bool:
        return self.status == 0 and self.ended is None and self.first("end") is not None

    @property
    def resumed_at(self) -> int:
        """The step at which the life started; 0 for a fresh start."""
        event = self.first("life")
        step: int = event["step"] if event else 0
        return step

    @property
    def reached(self) -> int:
        """The last step that the life finished."""
        steps: list[int] = [s["step"] for s in self.steps]
        return max([self.resumed_at, *steps])

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        """Its finished steps: each one's record with its loss."""
        losses = {e["step"]: e["loss"] for e in self.all("loss")}
        return [e | {"loss": losses[e["step"]]} for e in self.all("step") if e["step"] in losses]

    def text(self, file: str = "output", characters: int = 4000) -> str:
        """The end of what it printed, or of another of its files."""
        try:
            return scratch.read(self.folder / file, characters, tail=True).decode(errors="replace")
        except OSError:
            return ""


@dataclass
class Group:
    """A life of several ranks, after its end. Rank 0 speaks for all where they agree."""

    ranks: list[Life]
    fault: AnyFault | None

    @property
    def processes(self) -> list[Life]:
        return self.ranks

    def all(self, event: str) -> list[dict[str, Any]]:
        return self.ranks[0].all(event)

    def first(self, event: str) -> dict[str, Any] | None:
        return self.ranks[0].first(event)

    @property
    def preempted(self) -> bool:
        return all(life.preempted for life in self.ranks)

    @property
    def obeyed_fault(self) -> bool:
        """All ranks left as preempted, or the killed rank died."""
        if isinstance(self.fault, Preempt):
            return self.preempted and any(life.fault_fired for life in self.ranks)
        return self.died_of_fault

    @property
    def died_of_fault(self) -> bool:
        """The fault's rank died of it; what the other ranks did then doesn't matter."""
        return self.fault is not None and self.ranks[self.fault.rank or 0].died_of_fault

    @property
    def finished(self) -> bool:
        return all(life.finished for life in self.ranks)

    @property
    def resumed_at(self) -> int:
        return self.ranks[0].resumed_at

    @property
    def reached(self) -> int:
        return self.ranks[0].reached

    @property
    def steps(self) -> list[dict[str, Any]]:
        return self.ranks[0].steps

    def text(self, file: str = "output", characters: int = 4000) -> str:
        """What the ranks printed, each line after its rank."""
        texts = [(rank, life.text(file, characters)) for rank, life in enumerate(self.ranks)]
        return "".join(
            f"[rank {rank}] {line}\n" for rank, text in texts for line in text.splitlines()
        )


AnyLife = TypeVar("AnyLife", bound="Life | Group")


@dataclass
class Run(Generic[AnyLife]):
    """The lives of one run, in order. `schedule` holds the faults that were planned for them."""

    lives: list[AnyLife]
    schedule: tuple[AnyFault, ...]
    directory: Path  # its checkpoints
    command: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> AnyLife:
        return self.lives[-1]

    @property
    def finished(self) -> bool:
        return self.last.finished and len(self.lives) == len(self.schedule) + 1

    def of(self: Run[Group], rank: int) -> Run[Life]:
        """The run as one of its ranks saw it."""
        lives = [group.ranks[rank] for group in self.lives]
        return Run(lives, self.schedule, self.directory, self.command, self.notes)

    @property
    def world(self) -> int:
        """The number of ranks in the last life."""
        return len(self.last.ranks) if isinstance(self.last, Group) else 1

    @property
    def story(self) -> str:
        if not self.schedule:
            return "none"
        parts: list[str] = []
        for after in self.lives[1:]:
            where = (
                f"relaunched from the checkpoint of step {after.resumed_at}"
                if after.resumed_at
                else "relaunched"
            )
            parts.append(f"{self.schedule[len(parts)].story}; {where}")
        if len(self.lives) <= len(self.schedule):
            parts.append(self.schedule[len(self.lives) - 1].story)
        return "; then ".join(parts)

    @property
    def steps_lost(self) -> list[int]:
        """For each relaunch, how many finished steps it had to repeat."""
        lost = []
        for life, after in zip(self.lives, self.lives[1:], strict=False):
            lost.append(life.reached - after.resumed_at)
        return lost

    @cached_property
    def trajectory(self) -> Trajectory:
        """What the run trained in the end: each life continues from where it resumed."""
        joined = Trajectory()
        for life in self.lives:
            joined = joined.join(Trajectory.of(life))
        return joined

    def __str__(self) -> str:
        return f"{self.command} [{show_schedule(self.schedule)}]"
