"""A job that raises ends as failed: neither as done, nor as preempted."""

from __future__ import annotations

from collections.abc import Sequence

from grader.checks import crashes, trajectories
from grader.checks.crashes import crashed
from grader.checks.ex03.exits import ended_early, finished
from grader.checks.ex03.resumption import same_course
from grader.checks.ex03.status_file import SAYS, one_writes, run_says
from grader.checks.ex03.stop_runs import (
    SAVE_EVERY,
    all_steps,
    between_saves,
    fault_row,
    job,
    launch,
    steps_per_epoch,
    yardstick,
)
from grader.harness.lab import Lab
from grader.harness.preemption import send
from grader.harness.run import Process, Run, schedule_of
from grader.verdicts import Finding, Found, Gist, Inconclusive

ERRORS = ("RuntimeError", "OSError", "ValueError", "MemoryError", "TimeoutError", "AssertionError")
# what isn't an Exception: Ctrl-C, a library that exits, a task that is cancelled, a library's own
OTHERS = ("KeyboardInterrupt", "SystemExit", "CancelledError", "NodeLost")


def _failing(
    lab: Lab, where: str, step: int, *more: object, kinds: Sequence[str] = ERRORS
) -> tuple:
    """The arguments of a job that raises an error there, and that error: (type, message). In a
    save, a disk error is the likeliest.
    """
    error = (
        "OSError" if where == "save" else lab.draw.choice(kinds),
        f"node {lab.draw.getrandbits(32):08x}",
    )
    return job(lab, "--fails", f"{where}@{step}", "--fails-with", ":".join(error), *more), error


def _places(lab: Lab) -> list[tuple[str, int]]:
    """Where a job can fail: (what it does, after or in which step)."""
    return [
        ("build", 0),
        ("resume", 0),
        ("step", between_saves(lab)),
        ("evaluation", steps_per_epoch(lab)),
        ("save", 2 * SAVE_EVERY),
        ("save", all_steps(lab)),
    ]


def error_is_reported(lab: Lab) -> None:
    """A job that raises ends as failed: neither done, nor preempted. Without the error, it
    continues where it was. At each place, one kind that isn't an Exception is raised
    (small_lives.py raises all kinds everywhere). While the job is being built and while it resumes,
    an Exception is raised, too: a job that takes it for "no checkpoint" starts over.
    """
    others = iter(lab.draw.sample(OTHERS, len(OTHERS)))
    cases: list[tuple[str, int, Sequence[str]]] = [("step", between_saves(lab), ERRORS)]
    cases += [
        (where, step, ERRORS if where == "save" else (next(others),))
        for where, step in _places(lab)
    ]
    cases += [("build", 0, ERRORS), ("resume", 0, ERRORS)]
    for number, (where, step, kinds) in enumerate(cases):
        args, error = _failing(lab, where, step, kinds=kinds)
        run = launch(lab, *args, faults=())
        _failed(lab, run, where, step, error)
        if number:
            continue
        since = step // SAVE_EVERY * SAVE_EVERY
        again = launch(lab, *job(lab), faults=(), directory=run.directory, since=since)
        finished(lab, again)
        joined = Run([run.last, again.last], (), run.directory)
        try:
            trajectories.progress_kept(joined)
            same_course(lab, joined, yardstick(lab, args))
        except Finding as finding:
            finding.gist = f"{error[0]} in step {step}; run again, the job has no error"
            finding.rows = [("error", finding.gist), *finding.rows]
            raise


def error_after_a_signal(lab: Lab) -> None:
    """... even if the job was asked to stop just then; its last save may fail, too."""
    step, epoch = between_saves(lab), steps_per_epoch(lab)
    other = lab.draw.choice(OTHERS[2:])
    places = [
        ("build", 0, send("usr1", 0, "start"), OTHERS),
        ("save", step, send("usr1", step), ERRORS),
        ("step", step, send("term", step, "failing"), ERRORS),
        *(("step", step, send("term", step, "failing"), (kind,)) for kind in (*OTHERS[:2], other)),
        ("evaluation", epoch, send("term", epoch, "failing"), ERRORS),
    ]
    for where, at, signal, kinds in places:
        args, error = _failing(lab, where, at, kinds=kinds)
        for schedule in lab.schedules((signal,)):
            _failed(lab, launch(lab, *args, faults=schedule), where, at, error)


def error_of_ranks(lab: Lab) -> None:
    """On every rank; one of them writes the status."""
    step = between_saves(lab)
    args, error = _failing(lab, "step", step, kinds=OTHERS)
    run = launch(lab, *args, faults=(), ranks=2)
    _failed(lab, run, "step", step, error)
    one_writes(run)


def error_of_one_rank(lab: Lab) -> None:
    """On one rank, the only one that knows about it.

    In a step and in a save, the others notice in one of the job's collectives; in an evaluation, in
    one of the student's.
    """
    places = [
        ("step", between_saves(lab), 1),
        ("step", between_saves(lab), 0),
        ("evaluation", steps_per_epoch(lab), 1),
        ("save", SAVE_EVERY, 1),
        ("build", 0, 1),
    ]
    for where, step, rank in places:
        args, error = _failing(lab, where, step, "--fails-on-rank", rank)
        run = launch(lab, *args, faults=(), ranks=2)
        _failed(lab, run, where, step, error, rank)


def error_of_one_rank_after_a_signal(lab: Lab) -> None:
    """... even if that rank, or all, were asked to stop just before."""
    step, epoch = between_saves(lab), steps_per_epoch(lab)
    places = [
        ("step", step, send("term", step, "failing", rank=1)),
        ("evaluation", epoch, send("usr1", epoch, "evaluation", 0)),
        ("save", SAVE_EVERY, send("term", SAVE_EVERY, "event", 0)),
        ("resume", 0, send("usr1", 0, "failing", rank=1)),
    ]
    for where, at, signal in places:
        args, error = _failing(lab, where, at, "--fails-on-rank", 1)
        for schedule in lab.schedules((signal,)):
            run = launch(lab, *args, faults=schedule, ranks=2)
            _failed(lab, run, where, at, error, rank=1)


def _failed(
    lab: Lab, run: Run, where: str, step: int, error: tuple[str, str], rank: int | None = None
) -> None:
    """`rank`: the only one that has raised it."""
    life = run.lives[0]
    lives = life.processes
    if any(one.ended or one.all("killed") for one in lives):
        raise ended_early(lab, run, life)
    if not any(one.all("failing") for one in lives):
        if where == "save" and life.finished:
            raise Finding(
                "no-regular-save",
                [("expected", f"a save after step {step}"), Found("none")],
                schedule_of(run),
            )
        if life.finished or life.obeyed_fault:
            raise Inconclusive(
                "fault",
                [
                    *fault_row(run),
                    ("but", f"the job never got to its error: {where}, step {step}"),
                ],
                schedule_of(run),
            )
        raise ended_early(lab, run, life)
    place = {
        "step": f"in step {step}",
        "evaluation": f"in the evaluation after step {step}",
        "save": f"in the save of step {step}",
    }
    whose = ", which isn't an Exception," if error[0] in OTHERS else ""
    whose += "" if rank is None else f" of rank {rank}"
    rows = [
        *fault_row(run),
        Gist("error", f"{error[0]}{whose} {place.get(where, f'in the {where}')}"),
    ]
    # what main returned; with the others gone, a rank may leave with another status
    returned = [e["status"] for one in lives for e in one.all("left")]
    if statuses := [s for s in [*returned, *(one.status for one in lives)] if s in SAYS]:
        raise Finding(
            "error-hidden",
            [
                *rows,
                (
                    "ended",
                    f"the job exited with status {statuses[0]}, which says: {SAYS[statuses[0]]}",
                ),
            ],
            means=(
                "nobody looks for the error; or the job is run again forever, and fails at the "
                "same step each time"
            ),
            think="which errors does your code catch, and what does it do with them?",
        )
    for one in lives if rank is None else [lives[rank]]:
        _goes_on(one, rows, error)
    run_says(run, "failed", rows)


def _goes_on(life: Process, rows: list, error: tuple[str, str]) -> None:
    """The caller of main got this very error."""
    crash = life.first("crash")
    if crash and crash["type"] == error[0] and error[1] in crash["message"]:
        return
    raised = life.first("raised")
    if error[0] == "SystemExit" and raised and error[1] in raised["exit"]:
        return
    if crash:
        finding = crashed(crash, rows)
        finding.rows.append(("expected", "the job's own error reaches the caller"))
        raise finding
    rows = [
        *rows,
        (
            "ended",
            f"main's caller never got it: the process exited with {crashes.left_with(life.status)}",
        ),
        ("expected", "it reaches the caller"),
    ]
    raise Finding(
        "error-hidden",
        rows,
        think="which errors does your code catch, and what does it do with them?",
    )
