"""A run: a training job to completion, across its lives, and what it reported."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from grader.harness import scratch
from grader.harness.faults import AnyFault, show_schedule
from grader.harness.preemption import Preempt
from grader.harness.trajectory import Trajectory

# exit status of a job that was asked to stop, has saved, and wants to run again (EX_TEMPFAIL)
PREEMPTED = 75
# which limit ended a process (guardian.py) -> why the grader ended it, as text
WHY_ENDED = {
    "wall": "its time was up",
    "quiet": "it got no further",
    "cpu": "its CPU time was up",
    "memory": "it needed too much memory",
    "output": "it printed too much",
    "disk": "it wrote too much to disk",
    "stopped": "it was stopped from outside",
}
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
class Process:
    """One process of a life, after its end."""

    folder: Path
    fault: AnyFault | None  # the part of the life's that strikes this process
    result: dict[str, Any]  # the guardian's
    code: Path | None = None  # its copy of the submission

    @classmethod
    def of_events(cls, path: Path) -> Process:
        """A process that something else started: all we know is what it reported to `path`."""
        process = cls(path.parent, None, {"status": 0, "ended": None})
        process.events = read_events(path)
        return process

    def with_events(self, events: list[dict[str, Any]]) -> Process:
        """The same process, as if it had reported only these."""
        process = Process(self.folder, self.fault, self.result, self.code)
        process.events = events
        return process

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        return read_events(self.folder / "events")

    def all(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e.get("event") == event]

    def first(self, event: str) -> Any:
        """The first such event, a dict; None if there is none."""
        return next(iter(self.all(event)), None)

    @property
    def status(self) -> int:
        status: int = self.result["status"]
        return status

    @property
    def ended(self) -> str | None:
        ended: str | None = self.result["ended"]
        return ended

    def stalled(self, since: float, until: float) -> float:
        """Seconds between these two times (time.monotonic()) in which it couldn't run, since it
        waited for a processor or the disk.
        """
        total = 0.0
        for began, ended, seconds in self.result.get("stalls", []):
            within = min(ended, until) - max(began, since)
            total += seconds * max(0.0, within) / (ended - began)
        return total

    @property
    def fault_fired(self) -> bool:
        return self.first("fault") is not None

    @property
    def preempted(self) -> bool:
        """It left by itself, with the exit status of a preempted job."""
        return self.status == PREEMPTED and not self.ended

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
    def attempts(self) -> list[dict[str, Any]]:
        """What the submission's code reached for that no task needs (inside/attempts.py)."""
        return self.all("attempt")

    @property
    def resumed_at(self) -> int:
        """The step at which it started; 0 for a fresh start."""
        event = self.first("life")
        step: int = event["step"] if event else 0
        return step

    @property
    def reached(self) -> int:
        """The last step that it finished."""
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
class Life:
    """One process of a run, or one group of ranks, after its end.

    Where all ranks agree, rank 0 speaks for them.
    """

    processes: list[Process]  # by rank
    fault: AnyFault | None

    @property
    def process(self) -> Process:
        """Its only process."""
        (process,) = self.processes
        return process

    @property
    def world(self) -> int:
        return len(self.processes)

    @property
    def events(self) -> list[dict[str, Any]]:
        return self.processes[0].events

    def all(self, event: str) -> list[dict[str, Any]]:
        return self.processes[0].all(event)

    def first(self, event: str) -> Any:
        return self.processes[0].first(event)

    @property
    def struck(self) -> Process:
        """The process that its fault strikes."""
        aimed_at = self.fault.rank if self.fault else None
        return self.processes[(aimed_at or 0) if self.world > 1 else 0]

    @property
    def preempted(self) -> bool:
        return all(process.preempted for process in self.processes)

    @property
    def obeyed_fault(self) -> bool:
        """It ended as its fault says, so a relaunch proves something."""
        if isinstance(self.fault, Preempt):
            return self.preempted and any(process.fault_fired for process in self.processes)
        return self.died_of_fault

    @property
    def died_of_fault(self) -> bool:
        """The fault's process died of it; what the other ranks did then doesn't matter."""
        return self.fault is not None and self.struck.died_of_fault

    @property
    def finished(self) -> bool:
        return all(process.finished for process in self.processes)

    @property
    def resumed_at(self) -> int:
        return self.processes[0].resumed_at

    @property
    def reached(self) -> int:
        return self.processes[0].reached

    @property
    def steps(self) -> list[dict[str, Any]]:
        return self.processes[0].steps

    def text(self, file: str = "output", characters: int = 4000) -> str:
        """What it printed; of several ranks, each line after its rank."""
        texts = [process.text(file, characters) for process in self.processes]
        if self.world == 1:
            return texts[0]
        return "".join(
            f"[rank {rank}] {line}\n"
            for rank, text in enumerate(texts)
            for line in text.splitlines()
        )


@dataclass
class Run:
    """The lives of one run, in order. `schedule` holds the faults that were planned for them."""

    lives: list[Life]
    schedule: tuple[AnyFault, ...]
    directory: Path  # its checkpoints
    command: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    ranks: int | None = None  # as it was launched; None: one process that is no rank of anything

    @property
    def last(self) -> Life:
        return self.lives[-1]

    @property
    def finished(self) -> bool:
        return self.last.finished and len(self.lives) == len(self.schedule) + 1

    def of(self, rank: int) -> Run:
        """The run as one of its ranks saw it."""
        processes = [life.processes[rank] for life in self.lives]
        lives = [Life([process], process.fault) for process in processes]
        return Run(lives, self.schedule, self.directory, self.command, self.notes)

    @property
    def world(self) -> int:
        """The number of processes in the last life."""
        return self.last.world

    @property
    def story(self) -> str:
        if not self.schedule:
            return "none"
        parts: list[str] = []
        saved: set[int] = set()
        for before, after in pairwise(self.lives):
            saved |= {e["step"] for process in before.processes for e in process.all("saved")}
            at = after.resumed_at
            if not at:
                where = "relaunched"
            elif at in saved or not saved:
                where = f"relaunched from the checkpoint of step {at}"
            else:  # no such checkpoint: the student's code says so
                where = f"relaunched; it continued at step {at}"
            parts.append(f"{self.schedule[len(parts)].story}; {where}")
        if len(self.lives) <= len(self.schedule):
            due = self.schedule[len(self.lives) - 1].story
            came = any(process.fault_fired for process in self.last.processes)
            parts.append(due if came else f"{due}, which never came")
        return "; then ".join(parts)

    @property
    def steps_lost(self) -> list[int]:
        """For each relaunch, how many finished steps it had to repeat."""
        lost = []
        for life, after in pairwise(self.lives):
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


def schedule_of(run: Run) -> str | None:
    """Its fault schedule as text, for a replay; None without faults."""
    return show_schedule(run.schedule) if run.schedule else None
