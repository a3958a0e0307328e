"""A job that is told to stop, in places where it's easy to go wrong: at the end, after an error,
after an earlier life.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from grader.checks import crashes, trajectories
from grader.checks.crashes import crashed
from grader.checks.ex03 import stop_assertions
from grader.checks.ex03.stop_assertions import (
    EPOCHS,
    SAVE_EVERY,
    SAYS,
    all_steps,
    any_signal,
    between_saves,
    ended_early,
    fault_row,
    finished,
    job,
    launch,
    same_course,
    status_says,
    steps_per_epoch,
    yardstick,
)
from grader.harness.faults import Kill, TearWord
from grader.harness.lab import Lab
from grader.harness.preemption import TORN, send
from grader.harness.run import PREEMPTED, Life, Process, Run, schedule_of
from grader.verdicts import Finding, Found, Gist, Inconclusive


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
                ("compared", "your loop, and the plain one, in which nothing ever stops"),
            ],
            about=found.cause,
            think="what does your loop do in another order, more often, or not at all?",
        )
    all_parts = whole.last.first("epoch")["parts"]
    if parts := [e["parts"] for e in run.last.all("epoch") if e["parts"] != all_parts]:
        raise Finding(
            "evaluation-cut-short",
            [("evaluated", f"{parts[0]} parts of {all_parts}, undisturbed")],
            think="what does a best metric mean that was measured on a part of the data?",
        )
    _built_once(run.last)
    _saved_in_time(run.last, every)
    _saved_no_more(run.last, every, steps_per_epoch(lab))
    stop_assertions.not_said_too_soon(run, 0)
    _says(run, "done", [Gist("ended", "training was done, exit status 0")])


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
    """No more steps than that lie between two saves."""
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
            think="which saves happen though nobody asked the job to stop?",
        )


def _saved_no_more(life: Life, every: int, per_epoch: int) -> None:
    """No fewer steps than that lie between two saves, but for those at the end of an epoch."""
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
                means="training waits for a save, which takes a minute where the model is large",
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
    _says(run, "done", [Gist("ended", "training was done, exit status 0")])
    _nothing_to_do(lab, run, args, None)
    late = send(any_signal(lab), per_epoch, "evaluation", 11)
    for schedule in lab.schedules((late, send(any_signal(lab), all_steps(lab)))):
        run = stop_assertions.stopped_and_resumed(lab, args, schedule)
        _says(run, "done", [*fault_row(run), ("ended", "training was done, exit status 0")])
        _nothing_to_do(lab, run, args, None)


def just_finished(lab: Lab, ranks: int | None = None) -> None:
    """A signal in the last save of all comes too late to stop anything; run again, the job has
    nothing to do, also if it is told to stop at once.
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
            stop_assertions.left_as_preempted(lab, run, 0, life, whole)
        if not any(one.all("signal") for one in lives):
            rows = [
                ("trained", f"to the end, step {last}"),
                Found("no save after it"),
            ]
            raise Finding(
                "not-saved-at-the-end",
                rows,
                means="run again, the job trains what it has trained already",
                think="what does the next life find, if this one has just finished?",
            )
        stop_assertions.not_said_too_soon(run, 0)
        _says(run, "done", [Gist("ended", "training was done, exit status 0")])
        _nothing_to_do(lab, run, args, ranks)


def _nothing_to_do(lab: Lab, run: Run, args: tuple, ranks: int | None) -> None:
    """Run again, and told to stop while it is being built, a job that is done is done."""
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
            ("expected", "it finds that nothing is left to do, and says so"),
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
            means="run again, the job evaluates once more what it has evaluated already",
            think="which save is the last one, and what does your job do after it?",
        )
    if all(one.preempted for one in lives):
        raise _preempted_for_nothing(again, "run again when every epoch was trained and evaluated")
    if not life.finished:
        stop_assertions.left_as_preempted(lab, again, 0, life, yardstick(lab, args, ranks))
        raise ended_early(lab, again, life)
    _says(again, "done", [Gist("ended", "nothing was left to do, exit status 0")])


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
        means="the scheduler queues the job again, for nothing",
        think="when a signal came, is the job preempted in any case?",
    )


# --- errors ---------------------------------------------------------------------------------------

ERRORS = ("RuntimeError", "OSError", "ValueError", "MemoryError", "TimeoutError", "AssertionError")
# what isn't an Exception: Ctrl-C, a library that exits, a task that is cancelled, a library's own
OTHERS = ("KeyboardInterrupt", "SystemExit", "CancelledError", "NodeLost")


def _failing(
    lab: Lab, where: str, step: int, *more: object, kinds: Sequence[str] = ERRORS
) -> tuple:
    """The arguments of a job that raises an error there, and that error: (type, message). A disk's
    is the likeliest.
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
    ]


def error_is_told(lab: Lab) -> None:
    """A job that raises ends as failed: neither done, nor preempted; without the error, it goes on
    where it was. At each place, another one isn't an Exception.
    """
    others = iter(lab.draw.sample(OTHERS, len(OTHERS)))
    cases: list[tuple[str, int, Sequence[str]]] = [("step", between_saves(lab), ERRORS)]
    cases += [
        (where, step, ERRORS if where == "save" else (next(others),))
        for where, step in _places(lab)
    ]
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
    """... even if the job was told to stop just then; the save with which it wants to leave may
    fail, too.
    """
    step = between_saves(lab)
    places = [(("build", 0), send("usr1", 0, "start")), (("save", step), send("usr1", step))]
    places += [
        (place, send("term", place[1], "failing"))
        for place in _places(lab)
        if place[0] in ("step", "evaluation")
    ]
    for (where, at), signal in places:
        args, error = _failing(lab, where, at)
        for schedule in lab.schedules((signal,)):
            _failed(lab, launch(lab, *args, faults=schedule), where, at, error)


def error_of_ranks(lab: Lab) -> None:
    """On every rank."""
    step = between_saves(lab)
    args, error = _failing(lab, "step", step, kinds=OTHERS)
    _failed(lab, launch(lab, *args, faults=(), ranks=2), "step", step, error)


def error_of_one_rank(lab: Lab) -> None:
    """On a rank other than 0, which alone knows of it.

    In a step and in a save, the others meet it in a collective of the job's; in an evaluation, in
    one of the student's.
    """
    places = [
        ("step", between_saves(lab)),
        ("evaluation", steps_per_epoch(lab)),
        ("save", SAVE_EVERY),
    ]
    for where, step in places:
        args, error = _failing(lab, where, step, "--fails-on-rank", 1)
        run = launch(lab, *args, faults=(), ranks=2)
        _failed(lab, run, where, step, error, rank=1)


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
                    ("but", f"the job never came to its error: {where}, step {step}"),
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
    if statuses := [one.status for one in lives if one.status in SAYS]:
        raise Finding(
            "error-hidden",
            [
                *rows,
                (
                    "ended",
                    f"the job left with exit status {statuses[0]}, which says: {SAYS[statuses[0]]}",
                ),
            ],
            means=(
                "nobody looks for the error; or the job is run again for "
                "ever, and fails at the same step each time"
            ),
            think="which errors does your code catch, and what does it do with them?",
        )
    for one in lives if rank is None else [lives[rank]]:
        _goes_on(one, rows, error)
    _says(run, "failed", rows)


def _goes_on(life: Process, rows: list, error: tuple[str, str]) -> None:
    """The caller of main has got this very error."""
    crash = life.first("crash")
    if crash and crash["type"] == error[0] and error[1] in crash["message"]:
        return
    raised = life.first("raised")
    if error[0] == "SystemExit" and raised and error[1] in raised["exit"]:
        return
    if crash:
        finding = crashed(crash, rows)
        finding.rows.append(("expected", "the job's own error goes on to the caller"))
        raise finding
    rows = [
        *rows,
        (
            "ended",
            f"main's caller never got it: the process left with {crashes.left_with(life.status)}",
        ),
        ("expected", "it goes on to the caller"),
    ]
    raise Finding(
        "error-hidden",
        rows,
        think="which errors does your code catch, and what does it do with them?",
    )


# --- the word -------------------------------------------------------------------------------------


def status_is_fresh(lab: Lab) -> None:
    """Killed without a word, a life leaves no word of the life before."""
    step = steps_per_epoch(lab)
    for chosen in lab.schedules((send("usr1", step + 1), Kill(step + 3))):
        run = launch(lab, *job(lab), faults=chosen)
        stop_assertions.left_as_preempted(lab, run, 0, run.lives[0], yardstick(lab, job(lab)))
        if len(run.lives) < 2 or len(chosen) < 2:
            continue
        if not run.lives[1].died_of_fault:
            raise ended_early(lab, run, run.lives[1])
        stop_assertions.not_stale(run, 1)
        stop_assertions.not_said_too_soon(run, 1)


def word_is_whole(lab: Lab) -> None:
    """Killed while it writes how it stands, a life leaves the old word or the new one, and nothing
    in the next life's way.
    """
    for chosen in lab.schedules(
        (send("term", between_saves(lab)), TearWord(0), TearWord(all_steps(lab)))
    ):
        run = launch(lab, *job(lab), faults=chosen)
        whole = yardstick(lab, job(lab))
        for number, life in enumerate(run.lives):
            if life.fault and life.fault.kind == "word":
                stop_assertions.not_said_too_soon(run, number)
                _word_torn(run, number, life)
            stop_assertions.left_as_preempted(lab, run, number, life, whole)
        finished(lab, run)
        stop_assertions.nothing_lost(run)
        same_course(lab, run, whole)
        _says(run, "done", fault_row(run))


def _word_torn(run: Run, number: int, life: Life) -> None:
    if run.notes["words"][number] == TORN:
        rows = [
            *fault_row(run),
            ("status.json", "isn't whole: a reader finds neither the old word nor the new one"),
        ]
        raise Finding(
            "torn-word",
            rows,
            schedule_of(run),
            means=(
                "what decides whether the job is run again trips over "
                "it, or takes an empty file for a word"
            ),
            think="under which name do you write, and when does the file get its own?",
        )
    if life.finished:
        raise Inconclusive(
            "fault",
            [*fault_row(run), ("but", "it never fired: nothing was proved")],
            schedule_of(run),
        )


def _says(run: Run, want: str, rows: list) -> None:
    status_says(run.notes["words"][-1], want, [*fault_row(run), *rows], schedule_of(run))
