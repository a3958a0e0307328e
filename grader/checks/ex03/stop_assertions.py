"""What must hold for a job that a scheduler stops: it exits in time (exits.py), its status file
says how (status_file.py), and the next life loses nothing (resumption.py).
"""

from __future__ import annotations

from grader.checks.ex03.exits import finished, left_as_preempted
from grader.checks.ex03.resumption import nothing_lost, same_course
from grader.checks.ex03.status_file import not_said_too_soon, one_writes
from grader.checks.ex03.stop_runs import launch, yardstick
from grader.checks.ranks import together
from grader.harness.lab import Lab
from grader.harness.run import Run
from grader.verdicts import Finding


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
    finished(lab, run)
    together(run)
    one_writes(run)
    if saved:
        nothing_lost(run)
    same_course(lab, run, whole)


def rejoined(lab: Lab, run: Run, whole: Run, when: list) -> None:
    """The same for a life that stopped without an injected fault, and the one after it."""
    try:
        finished(lab, run)
        for number in range(len(run.lives)):
            not_said_too_soon(run, number)
        together(run)
        one_writes(run)
        nothing_lost(run, always=True)
        same_course(lab, run, whole)
    except Finding as finding:
        finding.rows = [*when, *finding.rows]
        raise
