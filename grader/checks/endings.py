"""How the lives of a run ended: as their faults say, at the end of training, or by a mistake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from grader.checks import ranks
from grader.checks.crashes import crashed, left_with, student_frames
from grader.checks.stacks import stood_at
from grader.harness.launcher import Limits
from grader.harness.run import Life, Process, Run, schedule_of
from grader.verdicts import Finding, Gist, Inconclusive, Struck


class Controls(Protocol):
    """Runs that decide whose fault a difference is, asked for only when there is one.

    A Lab launches them; a test of these functions has them as literals.
    """

    @property
    def limits(self) -> Limits: ...

    def again(self, undisturbed: Run) -> Run:
        """The undisturbed run once more."""

    def bare(self, number: int) -> Run:
        """A run without the student's code; equal numbers give the same run."""

    def too_slow(self) -> bool:
        """Is a run without the student's code too slow, too?"""


def finished(controls: Controls, run: Run) -> None:
    """Each life ended as its fault says, and every rank of the last one reached the end of
    training.
    """
    for life in run.lives:
        if life.fault is None:
            if not life.finished:
                raise ended_early(controls, run, life)
        elif not life.died_of_fault:
            if life.struck.first("end"):
                raise Inconclusive(
                    "fault",
                    [Struck(life.fault.story), ("but", "it never fired: nothing was proved")],
                    schedule_of(run),
                )
            raise ended_early(controls, run, life)


def ended_early(
    controls: Controls, run: Run, life: Life, asked: Sequence[tuple[str, str]] = ()
) -> Finding:
    """Why: the first process that went wrong by itself, or a deadlock, of which each rank has its
    half. `asked`: as evidence, what it was to do then.
    """
    processes, several = life.processes, life.world > 1
    when = [*([Struck(run.story)] if run.schedule else []), *asked]
    if apart := ranks.never_met([crash for one in processes for crash in one.all("crash")]):
        return apart
    stood = ranks.standing(processes) if several else {}

    def who(rank: int) -> list[tuple[str, str]]:
        return [*when, *ranks.rank_row(life.world, rank)]

    for rank, process in enumerate(processes):
        if process.ended:
            finding = over_limit(controls, run, process, who(rank))
            finding.rows += ranks.by_rank({r: at for r, at in stood.items() if r != rank})
            finding.data["rank"] = rank
            return finding
    for rank, process in enumerate(processes):  # of several, which was first is chance
        crash = process.first("crash")
        if crash and not (several and ranks.by_others(process, crash)):
            finding = crashed(crash, who(rank), schedule_of(run))
            waiting = {
                r: at for r, at in stood.items() if r != rank and not ranks.left_well(processes[r])
            }
            finding.rows += ranks.by_rank(waiting)
            finding.data["rank"] = rank
            return finding
    for rank, process in enumerate(processes):
        if not several or (process.first("crash") is None and not process.finished):
            return _left(run, life, rank)
    return ranks.deadlock(processes, when, schedule_of(run))


def _left(run: Run, life: Life, rank: int) -> Finding:
    """This rank left without a word."""
    process, alone = life.processes[rank], life.world == 1
    who = "the process ended" if alone else f"rank {rank} left"
    ended = f"{who} with {left_with(process.status)} before training was done"
    return Finding(
        "exit",
        [
            *([Struck(run.story)] if run.schedule else []),
            Gist("ended", ended),
            *student_frames(process.first("exit") or {"frames": []}),
        ],
        schedule_of(run),
        about=f"{process.status}",
        means=(
            "a scheduler that sees exit 0 believes that the job is done"
            if process.status == 0 and alone
            else ""
        ),
        ending=ended,
    )


def over_limit(controls: Controls, run: Run, process: Process, when: list) -> Finding:
    limits = controls.limits
    if process.ended == "stopped":
        return Inconclusive("stopped", [("stopped", "the life was stopped from outside")])
    if process.ended == "wall" and starved(limits.wall, process.result.get("waited", 0.0)):
        waited = (
            f"busy: of {limits.wall:g} s, your code waited {process.result['waited']:.0f} s "
            "for a processor"
        )
        return Inconclusive("starved", [*when, ("machine", waited)])
    if process.ended in ("wall", "quiet") and controls.too_slow():
        return Inconclusive(
            "slow",
            [
                *when,
                (
                    "machine",
                    "too slow now, even for a run without your code",
                ),
            ],
        )
    what = {
        "wall": f"still running after {limits.wall:g} s; {NORMAL}",
        "quiet": f"got no further for {process.result['silent']:.0f} s; {NORMAL}",
        "cpu": f"used {process.result['cpu']:.0f} s of CPU time; {NORMAL}",
        "memory": f"needed more than {limits.memory >> 20} MiB of memory",
        "output": f"printed more than {limits.output >> 20} MiB",
        "disk": f"wrote more than {limits.disk >> 20} MiB to disk, or thousands of files",
    }[process.ended or ""]
    return Finding(
        "limit",
        [*when, Gist("ended", what), *stood_at(process)],
        schedule_of(run),
        about=f"{process.ended}",
        means=HOLDS if process.ended == "quiet" else "",
        think=WAITS if process.ended == "quiet" else "",
        ending=what,
    )


NORMAL = "a whole run takes about 1 s"
HOLDS = "a job that hangs holds its nodes until the time limit, and nothing reports it"
WAITS = "what does this line wait for, and what if that never comes?"


def starved(allowed: float, waited: float) -> bool:
    """Did a process that used its `allowed` seconds spend many of them waiting for a processor?"""
    return waited > 0.3 * allowed


def imports_cleanly(run: Run, functions: list[str]) -> None:
    """The module imports, doesn't end the process, and has the functions that the tasks name."""
    process = run.last.process
    imported = process.first("imported")
    if imported is None:
        raise _not_imported(process)
    missing = [name for name in functions if name not in imported["functions"]]
    if missing:
        raise Finding(
            "import", [("missing", f"no function {', '.join(missing)}: the tasks call it")]
        )


def _not_imported(process: Process) -> Finding:
    if crash := process.first("crash"):
        # a file with a NUL byte has no line to show
        where = student_frames(crash)[-1:] or [("file", process.first("importing")["file"])]
        unreadable = crash["type"] == "SyntaxError" or "null byte" in crash["message"]
        label = "can't parse" if unreadable else "can't import"
        error = f"{crash['type']}: {crash['message']}"[:300]
        return Finding("import", [(label, where[-1][1]), Gist("error", error)])
    if process.ended:
        endless = process.ended in ("quiet", "wall", "cpu")
        what = "never ends" if endless else f"exceeded a limit: {process.ended}"
        rows = [("can't import", f"importing it {what}"), *stood_at(process)]
        return Finding("import", rows)
    rows = [
        ("can't import", f"importing it ended the process with {left_with(process.status)}"),
        *student_frames(process.first("exit") or {"frames": []}),
    ]
    return Finding("import", rows)
