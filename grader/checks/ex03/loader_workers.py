"""A job with DataLoader workers: signals to its process group, and what its workers draw."""

from __future__ import annotations

from grader.checks.ex03 import resumption
from grader.checks.ex03.exits import finished
from grader.checks.ex03.stop_assertions import stopped_and_resumed
from grader.checks.ex03.stop_runs import (
    all_steps,
    fault_row,
    job,
    launch,
    reported,
    steps_per_epoch,
    yardstick,
)
from grader.harness.lab import Lab
from grader.harness.preemption import Preempt
from grader.harness.run import Run, schedule_of
from grader.verdicts import Finding, Found, Inconclusive

NUMBER = 2


def settled(lab: Lab, epoch: int | None = None) -> list[int]:
    """The steps (of this epoch), but an epoch's last, in which both workers have delivered a batch.

    A worker that is still starting hasn't reached worker_init_fn, where it may start to ignore a
    signal: until then, a signal kills it in any solution.
    """
    per_epoch = steps_per_epoch(lab)
    steps = [n for n in range(1, all_steps(lab)) if n % per_epoch >= NUMBER]
    return [n for n in steps if epoch in (None, n // per_epoch)]


def epoch_of(lab: Lab, signal: str) -> int:
    """The epoch in which this signal comes, in a step: another one for each signal."""
    return (lab.shared.randrange(2) + (signal == "term")) % 2


def stops(lab: Lab, preemption: Preempt) -> None:
    args = job(lab, "--workers", NUMBER)
    for schedule in lab.schedules((preemption,)):
        run = stopped_and_resumed(lab, args, schedule, whole=_whole(lab, args))
        for life in run.lives:
            struck = reported(life.process, "struck", run.notes["token"])
            if gone := max([e["gone"] for e in struck], default=0):
                raise _gone(run, gone)
            if len(struck) != len(life.all("signal")):
                rows = [*fault_row(run), ("but", "its effect on the workers wasn't observed")]
                raise Inconclusive("signal-not-sent", rows, schedule_of(run))


def _gone(run: Run, number: int) -> Finding:
    rows = [
        *fault_row(run),
        ("workers", f"{number} of {NUMBER} exited on the signal"),
    ]
    return Finding(
        "workers-gone",
        rows,
        schedule_of(run),
        means="a job that fetches one more batch before it stops has no worker left to load it",
        think="what does a worker do with the signal, and does the main process still need it?",
    )


def draw_apart(lab: Lab) -> None:
    """Every worker of every epoch has random numbers of its own."""
    run = _undisturbed(lab, job(lab, "--workers", NUMBER))
    seen: dict[tuple[str, str], tuple[int, int]] = {}
    for worker in run.last.all("worker"):
        here = worker["epoch"], worker["worker"]
        for generator, state in worker["generators"].items():
            if (before := seen.setdefault((generator, state), here)) != here:
                rows = [
                    ("same", f"{generator}, of {_named(before)} and {_named(here)}"),
                ]
                raise Finding(
                    "workers-alike",
                    rows,
                    means=(
                        "both augment their samples with the same random numbers: the model sees "
                        "the same noise again"
                    ),
                    think=(
                        "what seeds a worker, with which seed, and what does your worker_init "
                        "change?"
                    ),
                )
    if not seen:
        raise Finding("no-worker", [Found("no DataLoader worker finished worker_init")])
    _draw_again(lab, run)


def _draw_again(lab: Lab, run: Run) -> None:
    """A second undisturbed run draws the same numbers, or else no resumed run could."""
    args = job(lab, "--workers", NUMBER)
    parting = run.trajectory.diverges_from(yardstick(lab, args).trajectory)
    if parting is None:
        return  # the loader's own seeds
    again = launch(lab, *args, faults=())
    finished(lab, again)
    if (parting := again.trajectory.diverges_from(run.trajectory)) is None:
        return
    resumption.machine_repeats(lab, run)
    raise Finding(
        "workers-by-chance",
        [
            ("compared", "two undisturbed runs of your job, with the same seed"),
            Found(f"they draw different random numbers, from step {parting.step} on"),
        ],
        means=(
            "a resumed run can't draw what it would have drawn, and no run can be repeated to find "
            "a bug in it"
        ),
        think="what seeds a worker: does it have the same value when the job runs again?",
    )


def _named(epoch_and_worker: tuple[int, int]) -> str:
    return "worker {1} of epoch {0}".format(*epoch_and_worker)


def _undisturbed(lab: Lab, args: tuple) -> Run:
    key = ("workers", lab.bench.submission.key, *args)
    run = lab.bench.once(key, lambda: launch(Lab(lab.bench, "workers"), *args, faults=()))
    finished(lab, run)
    return run


def _whole(lab: Lab, args: tuple) -> Run:
    """The yardstick; or your own undisturbed run, if your workers draw other random numbers. They
    may: seeds that they set are theirs, as long as no two of them draw alike.
    """
    whole, own = yardstick(lab, args), _undisturbed(lab, args)
    parting = own.trajectory.diverges_from(whole.trajectory)
    if parting and parting.step == 1 and set(parting.different) <= {"augmented inputs", "loss"}:
        return own
    return whole
