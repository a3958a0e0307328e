"""A life that SIGKILL ends leaves a status file that is whole, and not an earlier life's."""

from __future__ import annotations

from grader.checks.ex03 import exits, resumption, status_file
from grader.checks.ex03.exits import ended_early, finished
from grader.checks.ex03.resumption import same_course
from grader.checks.ex03.status_file import run_says
from grader.checks.ex03.stop_runs import (
    all_steps,
    between_saves,
    fault_row,
    job,
    launch,
    steps_per_epoch,
    yardstick,
)
from grader.harness.faults import Kill, TearWord
from grader.harness.lab import Lab
from grader.harness.preemption import TORN, send
from grader.harness.run import Life, Run, schedule_of
from grader.verdicts import Finding, Inconclusive


def status_is_fresh(lab: Lab) -> None:
    """A life that is killed before it writes a status doesn't leave the earlier life's."""
    step = steps_per_epoch(lab)
    for chosen in lab.schedules((send("usr1", step + 1), Kill(step + 3))):
        run = launch(lab, *job(lab), faults=chosen)
        exits.left_as_preempted(lab, run, 0, run.lives[0], yardstick(lab, job(lab)))
        if len(run.lives) < 2 or len(chosen) < 2:
            continue
        if not run.lives[1].died_of_fault:
            raise ended_early(lab, run, run.lives[1])
        status_file.not_stale(run, 1)
        status_file.not_said_too_soon(run, 1)


def status_is_whole(lab: Lab) -> None:
    """A life that is killed while it writes its status leaves the old status or the new one, and
    nothing that blocks the next life.
    """
    for chosen in lab.schedules(
        (send("term", between_saves(lab)), TearWord(0), TearWord(all_steps(lab)))
    ):
        run = launch(lab, *job(lab), faults=chosen)
        whole = yardstick(lab, job(lab))
        for number, life in enumerate(run.lives):
            if life.fault and life.fault.kind == "word":
                status_file.not_said_too_soon(run, number)
                _status_torn(run, number, life)
            exits.left_as_preempted(lab, run, number, life, whole)
        finished(lab, run)
        resumption.nothing_lost(run)
        same_course(lab, run, whole)
        run_says(run, "done", fault_row(run))


def _status_torn(run: Run, number: int, life: Life) -> None:
    if run.notes["words"][number] == TORN:
        rows = [
            *fault_row(run),
            ("status.json", "isn't whole: a reader finds neither the old status nor the new one"),
        ]
        raise Finding(
            "torn-word",
            rows,
            schedule_of(run),
            means=(
                "the script that decides whether to run the job again fails, or takes an empty "
                "file for a status"
            ),
            think="under which name do you write the file, and when does it get its final name?",
        )
    if life.finished:
        raise Inconclusive(
            "fault",
            [*fault_row(run), ("but", "it never fired: nothing was proved")],
            schedule_of(run),
        )
