"""A job that isn't stopped, or only when it has just finished, trains and saves everything once and
ends as done.
"""

from __future__ import annotations

from itertools import pairwise

from grader.checks import trajectories
from grader.checks.ex03 import exits, status_file, stop_assertions
from grader.checks.ex03.exits import ended_early, finished
from grader.checks.ex03.resumption import same_course
from grader.checks.ex03.status_file import run_says
from grader.checks.ex03.stop_runs import (
    EPOCHS,
    all_steps,
    any_signal,
    fault_row,
    job,
    launch,
    steps_per_epoch,
    yardstick,
)
from grader.harness.lab import Lab
from grader.harness.preemption import send
from grader.harness.run import PREEMPTED, Life, Run, schedule_of
from grader.verdicts import Finding, Found, Gist


def trains_like_the_yardstick(lab: Lab) -> None:
    """Undisturbed, `main` trains every step once, evaluates every epoch whole, saves in time and at
    the end, and says that it's done.
    """
    every = lab.draw.choice([2, 3])
    args = job(lab, "--save-every", every, "--epochs", EPOCHS + 1)
    run = launch(lab, *args, faults=())
    finished(lab, run)
    whole = yardstick(lab, args)
    if found := run.trajectory.diverges_from(whole.trajectory):
        raise Finding(
            "wrong-loop",
            [
                *trajectories.divergence_rows(run, found),
                ("compared", "your loop, and a plain loop that never stops"),
            ],
            about=found.cause,
            think="what does your loop do in another order, more often, or not at all?",
        )
    all_parts = whole.last.first("epoch")["parts"]
    if parts := [e["parts"] for e in run.last.all("epoch") if e["parts"] != all_parts]:
        raise Finding(
            "evaluation-cut-short",
            [("evaluated", f"{parts[0]} parts of {all_parts}, undisturbed")],
            think="what does a best metric mean if it was measured on part of the data?",
        )
    _built_once(run.last)
    _saved_in_time(run.last, every)
    _saved_no_more(run.last, every, steps_per_epoch(lab))
    status_file.not_said_too_soon(run, 0)
    run_says(run, "done", [Gist("ended", "training was done, exit status 0")])


def second_in_its_process(lab: Lab) -> None:
    """`main` has already run another job in this process, which a signal stopped. This one trains
    to its end.
    """
    args = job(lab, "--second")
    run = launch(lab, *args, faults=())
    try:
        finished(lab, run)
        same_course(lab, run, yardstick(lab, args))
        run_says(run, "done", [Gist("ended", "training was done, exit status 0")])
    except Finding as finding:
        before = "main had run another job in the same process; SIGTERM stopped that one"
        finding.rows = [("before", before), *finding.rows]
        raise


def _built_once(life: Life) -> None:
    for event, call in (("built", "make_job"), ("life", "job.resume")):
        if (times := len(life.all(event))) > 1:
            rows = [
                Found(f"{call}() was called {times} times"),
                ("expected", "once"),
            ]
            raise Finding(
                "built-twice",
                rows,
                think="how long does that take, and what did it do the first time?",
            )


def _saved_in_time(life: Life, every: int) -> None:
    """At most `every` steps between two saves."""
    saved = [0, *(e["step"] for e in life.all("saved"))]
    gap, at = max((after - before, before) for before, after in pairwise([*saved, life.reached]))
    if gap > every:
        after = f"after step {at}" if at else "before the first one"
        rows = [
            ("expected", f"a regular save every {every} steps (job.save_every)"),
            Found(f"{after}, none in {gap} steps"),
        ]
        raise Finding(
            "no-regular-save",
            rows,
            means="a node that dies without a signal takes everything since then with it",
            think="which saves happen even though nothing asks the job to stop?",
        )


def _saved_no_more(life: Life, every: int, per_epoch: int) -> None:
    """At least `every` steps between two saves, except at the end of an epoch."""
    saved = [e["step"] for e in life.all("saved") if e["step"] % per_epoch]
    for before, after in pairwise(saved):
        if after - before < every:
            twice = f"twice after step {after}"
            rows = [
                ("expected", f"a regular save every {every} steps (job.save_every)"),
                Found(twice if after == before else f"after step {before}, and after {after}"),
            ]
            raise Finding(
                "too-many-saves",
                rows,
                means="training waits for each save, and saving a large model takes a minute",
                think="after which steps is a save due?",
            )


def due_at_the_end(lab: Lab) -> None:
    """A regular save is due after the last step of each epoch. The evaluation and the end of the
    epoch come after it, and a job that is done has saved them, too.
    """
    per_epoch = steps_per_epoch(lab)
    args = job(lab, "--save-every", per_epoch)
    whole = yardstick(lab, args)
    run = launch(lab, *args, faults=())
    finished(lab, run)
    same_course(lab, run, whole)
    _saved_in_time(run.last, per_epoch)
    run_says(run, "done", [Gist("ended", "training was done, exit status 0")])
    _nothing_to_do(lab, run, args, None)
    late = send(any_signal(lab), per_epoch, "evaluation", 11)
    for schedule in lab.schedules((late, send(any_signal(lab), all_steps(lab)))):
        run = stop_assertions.stopped_and_resumed(lab, args, schedule)
        run_says(run, "done", [*fault_row(run), ("ended", "training was done, exit status 0")])
        _nothing_to_do(lab, run, args, None)


def just_finished(lab: Lab, ranks: int | None = None) -> None:
    """A signal in the very last save comes too late to stop anything. When it is run again, the job
    has nothing to do, even if it is asked to stop at once.
    """
    args, last = job(lab), all_steps(lab)
    whole = yardstick(lab, args, ranks)
    rank = None if ranks is None else lab.draw.randrange(ranks)
    for schedule in lab.schedules((send("term", last, "event", 1, rank=rank),)):
        run = launch(lab, *args, faults=schedule, ranks=ranks)
        life = run.lives[0]
        lives = life.processes
        if life.obeyed_fault and len(life.all("epoch")) < len(whole.last.all("epoch")):
            return  # it saves before the last evaluation, was stopped there, and is right to say so
        if not all(one.status == 0 and not one.ended for one in lives):
            if all(one.preempted for one in lives):
                raise _preempted_for_nothing(run, "with every epoch trained and evaluated")
            exits.left_as_preempted(lab, run, 0, life, whole)
        if not any(one.all("signal") for one in lives):
            rows = [
                ("trained", f"to the end, step {last}"),
                Found("no save after it"),
            ]
            raise Finding(
                "not-saved-at-the-end",
                rows,
                means="when it is run again, the job repeats steps that it has already trained",
                think="what does the next life find if this one has just finished?",
            )
        status_file.not_said_too_soon(run, 0)
        run_says(run, "done", [Gist("ended", "training was done, exit status 0")])
        _nothing_to_do(lab, run, args, ranks)


def _nothing_to_do(lab: Lab, run: Run, args: tuple, ranks: int | None) -> None:
    """A job that is done is still done when it is run again and asked to stop while it is being
    built."""
    last = all_steps(lab)
    signal = send("usr1", 0, "start", rank=None if ranks is None else lab.draw.randrange(ranks))
    again = launch(lab, *args, faults=(signal,), directory=run.directory, ranks=ranks, since=last)
    life = again.lives[0]
    lives = life.processes
    if any(one.steps or one.all("part") for one in lives):
        rows = [
            ("relaunched", "a job that is done"),
            Found(
                f"it trained {len(life.steps)} steps and evaluated {len(life.all('part'))} parts",
            ),
            ("expected", "it finds that there is nothing left to do, and says so"),
        ]
        raise Finding(
            "done-twice",
            rows,
            think="what was saved last, and does it say that the last epoch is over?",
        )
    resumed = life.first("life")
    if resumed and resumed["epoch"] < EPOCHS:
        rows = [
            ("relaunched", "a job that is done"),
            Found(f"in its newest checkpoint, {resumed['epoch']} of {EPOCHS} epochs are over"),
            ("expected", "all of them: the evaluation and the end of the last one are saved, too"),
        ]
        raise Finding(
            "done-twice",
            rows,
            means="when it is run again, the job repeats an evaluation that it has already done",
            think="which save is the last one, and what does your job do after it?",
        )
    if all(one.preempted for one in lives):
        raise _preempted_for_nothing(again, "run again when every epoch was trained and evaluated")
    if not life.finished:
        exits.left_as_preempted(lab, again, 0, life, yardstick(lab, args, ranks))
        raise ended_early(lab, again, life)
    run_says(again, "done", [Gist("ended", "nothing was left to do, exit status 0")])


def _preempted_for_nothing(run: Run, when: str) -> Finding:
    rows = [
        *fault_row(run),
        Gist("ended", f"as preempted (exit status {PREEMPTED}), {when}"),
        ("expected", "exit status 0: nothing was left to do"),
    ]
    return Finding(
        "preempted-when-done",
        rows,
        schedule_of(run),
        means="the scheduler queues the job again for no reason",
        think="is every job that got a signal preempted?",
    )
