"""What must hold for a job that a scheduler stops: it exits in time (exits.py), its status file
says how (status_file.py), and the next life loses nothing (resumption.py).
"""

from __future__ import annotations

from grader.checks.ex03.exits import finished, left_as_preempted
from grader.checks.ex03.resumption import nothing_lost, same_course
from grader.checks.ex03.status_file import not_said_too_soon, one_writes
from grader.checks.ex03.stop_runs import fault_row, launch, yardstick
from grader.checks.ranks import rank_row, together
from grader.checks.trajectories import progress_kept
from grader.harness.lab import Lab
from grader.harness.run import Process, Run, schedule_of
from grader.verdicts import Finding, Found

# signals of these phases come while a step, or a part of an evaluation, is in progress
IN_PROGRESS = ("", "end", "evaluation")


def stopped_and_resumed(
    lab: Lab,
    args: tuple,
    schedule: tuple,
    ranks: int | None = None,
    saved: bool = True,
    whole: Run | None = None,
) -> Run:
    """The run stops as its faults say, reports that, loses no step (unless `saved` is false), and
    trains like the yardstick (or like `whole`).
    """
    run = launch(lab, *args, faults=schedule, ranks=ranks, saved=saved)
    stopped_well(lab, run, whole or yardstick(lab, args, ranks), saved)
    return run


def stopped_well(lab: Lab, run: Run, whole: Run, saved: bool = True) -> None:
    """The same, of a run that is over."""
    for number, life in enumerate(run.lives):
        left_as_preempted(lab, run, number, life, whole)
        for rank, one in enumerate(life.processes):
            _stopped_soon(run, rank, one)
    finished(lab, run)
    together(run)
    one_writes(run)
    if saved:
        nothing_lost(run)
    same_course(lab, run, whole)


def _stopped_soon(run: Run, rank: int, life: Process) -> None:
    """After its first signal, it did no more than finish the step or the part in progress. An
    evaluation, and ranks, may ask whether to stop at every other one.
    """
    began = next((n for n, e in enumerate(life.events) if e["event"] == "signal"), None)
    if began is None:
        return
    later = [e["event"] for e in life.events[began:] if e["event"] in ("trained", "part")]
    more = later[1:] if life.events[began]["phase"] in IN_PROGRESS else later
    allowed = 1 if run.last.world > 1 or more[:1] == ["part"] else 0
    if len(more) <= allowed:
        return
    rows = [
        *fault_row(run),
        *rank_row(run.last.world, rank),
        Found(f"after that, {len(more)} more steps or parts of an evaluation, until it stopped"),
        ("expected", "it stops as soon as it can, however long the grace is"),
    ]
    raise Finding(
        "grace-used-up",
        rows,
        schedule_of(run),
        think="what does a signal ask for, and how often does your job look whether one came?",
    )


def rejoined(lab: Lab, run: Run, whole: Run, when: list, saved: bool = True) -> None:
    """The same for a life that stopped without an injected fault, and the one after it."""
    try:
        finished(lab, run)
        for number in range(len(run.lives)):
            not_said_too_soon(run, number)
        together(run)
        one_writes(run)
        if saved:
            nothing_lost(run, always=True)
        else:
            progress_kept(run)
        same_course(lab, run, whole)
    except Finding as finding:
        finding.rows = [*when, *finding.rows]
        raise
