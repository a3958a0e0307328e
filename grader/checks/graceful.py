"""A job that is told to stop, in places where it's easy to go wrong: at the end, after an error, after an earlier life."""

from __future__ import annotations

from grader.checks import expect, preempted
from grader.checks.expect import schedule_of
from grader.checks.preempted import (
    SAYS,
    between_saves,
    ended_early,
    fault_row,
    finished,
    job,
    launch,
    steps_per_epoch,
)
from grader.harness.lab import Lab
from grader.harness.preemption import Preempt, Sent, send, told
from grader.harness.run import PREEMPTED, Group, Run
from grader.verdicts import Finding


def trains_like_the_yardstick(lab: Lab) -> None:
    """Undisturbed, `main` trains every step once, evaluates every epoch whole, saves at the end, and says that it's done."""
    args = job(lab)
    run, bare = lab.undisturbed(*args), lab.undisturbed(*args, "--bare")
    finished(lab, run)
    expect.finished(lab, bare)
    if found := run.trajectory.diverges_from(bare.trajectory):
        rows = [r for r in expect.divergence_rows(run, found) if r[0] not in ("means", "think")]
        rows += [("compared", "your loop, and the plain one, in which nothing ever stops"), ("think", "what does your loop do in another order, more often, or not at all?")]
        raise Finding(f"loop:{found.cause}", rows)
    if parts := [e["parts"] for e in run.last.all("epoch") if e["parts"] != bare.last.first("epoch")["parts"]]:
        rows = [("evaluated", f"{parts[0]} parts of {bare.last.first('epoch')['parts']}, undisturbed"), ("think", "what does a best metric mean that was measured on a part of the data?")]
        raise Finding("evaluation cut short", rows)
    _says(run, "done", [("ended", "training was done, exit status 0")])


def just_finished(lab: Lab, ranks: int | None = None) -> None:
    """A signal in the last save of all comes too late to stop anything; run again, the job has nothing to do."""
    args, last = job(lab), 2 * steps_per_epoch(lab)
    preempted.undisturbed(lab, *args, ranks=ranks)
    for schedule in lab.schedules((Preempt((Sent("term", last, "event", 1, rank=None if ranks is None else 0),)),)):
        run = launch(lab, *args, faults=schedule, ranks=ranks)
        life = run.lives[0]
        lives = life.processes
        if life.obeyed_fault and len(life.all("epoch")) < 2:
            return  # it saves before the last evaluation, was stopped there, and is right to say so
        if not all(one.status == 0 and not one.ended for one in lives):
            if all(one.preempted for one in lives):
                rows = [
                    *fault_row(run),
                    ("ended", f"as preempted (exit status {PREEMPTED}), with every epoch trained and evaluated"),
                    ("expected", "exit status 0: nothing was left to do"),
                    ("means", "the scheduler queues the job again, for nothing"),
                    ("think", "when a signal came, is the job preempted in any case?"),
                ]
                raise Finding("done, not preempted", rows, schedule_of(run))
            preempted.left_as_preempted(lab, run, 0, life, lab.undisturbed(*args, ranks=ranks))
        if not any(one.all("signal") for one in lives):
            rows = [("trained", f"to the end, step {last}"), ("found", "no save after it"), ("means", "run again, the job trains what it has trained already"), ("think", "what does the next life find, if this one has just finished?")]
            raise Finding("not saved at the end", rows)
        _says(run, "done", [("ended", "training was done, exit status 0")])
        again = lab.launch(*args, directory=run.directory, ranks=ranks)
        if not again.finished or again.last.steps or again.last.all("part"):
            if not again.last.steps and not again.finished:
                raise ended_early(lab, again, again.last)
            rows = [("relaunched", "a job that is done"), ("found", f"it trained {len(again.last.steps)} steps and evaluated {len(again.last.all('part'))} parts"), ("expected", "it finds that nothing is left to do, and says so"), ("think", "what was saved last, and does it say that the last epoch is over?")]
            raise Finding("done twice", rows)


def error_is_told(lab: Lab, ranks: int | None = None, told_to_stop: bool = False) -> None:
    """A step that raises ends the job as failed: neither done, nor preempted, even if it was told to stop just then."""
    step = between_saves(lab)
    args = job(lab, "--fails-at", step)
    if told_to_stop:  # while the optimizer updates the weights in the step before, so it's asked for the next one
        for schedule in lab.schedules((send("term", step, "failing"),)):
            _error_is_told(lab, launch(lab, *args, faults=schedule, ranks=ranks), step)
    else:
        _error_is_told(lab, launch(lab, *args, faults=(), ranks=ranks), step)


def _error_is_told(lab: Lab, run: Run, step: int) -> None:
    life = run.lives[0]
    if not isinstance(life, Group) and life.ended or any(one.all("killed") for one in life.processes):
        raise ended_early(lab, run, life)
    rows = [*fault_row(run), ("error", f"RuntimeError in step {step}")]
    statuses = [one.status for one in life.processes if one.status in SAYS]
    if statuses:
        raise Finding(
            "error hidden",
            [
                *rows,
                ("ended", f"the job left with exit status {statuses[0]}, which says: {SAYS[statuses[0]]}"),
                ("means", "nobody looks for the error; or the job is run again for ever, and fails at the same step each time"),
                ("think", "which errors does your code catch, and what does it do with them?"),
            ],
        )
    _says(run, "failed", rows)


def status_is_fresh(lab: Lab, schedule: tuple, ranks: int | None = None) -> None:
    """Killed without a word, a life leaves no word of the life before."""
    for chosen in lab.schedules(schedule):
        run = launch(lab, *job(lab), faults=chosen, ranks=ranks)
        preempted.left_as_preempted(lab, run, 0, run.lives[0], preempted.undisturbed(lab, *job(lab), ranks=ranks))
        if len(run.lives) < 2 or len(chosen) < 2:
            continue
        if not run.lives[1].died_of_fault:
            raise ended_early(lab, run, run.lives[1])
        if (says := run.notes["told"][1]) in ("done", "preempted", "failed"):
            rows = [
                *fault_row(run),
                ("status.json", f"says {says!r} after the SIGKILL: the life before wrote that"),
                ("expected", "that nobody said how this life ended"),
                ("means", "a job that crashes without a word looks as if it had left in good order"),
                ("think", "when does what the file says stop being true?"),
            ]
            raise Finding("stale status", rows, schedule_of(run))


def _says(run: Run, want: str, rows: list) -> None:
    preempted.status_says(told(run.directory), want, [*fault_row(run), *rows], schedule_of(run))
