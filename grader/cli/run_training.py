"""Runs a submission outside of grading: `grade run`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from grader.checks.endings import finished
from grader.checks.ex03 import stop_assertions, stop_runs
from grader.checks.ranks import by_others
from grader.checks.trajectories import rejoins
from grader.course.submissions import Submission
from grader.errors import UsageError
from grader.harness import launcher as launchers
from grader.harness.faults import AnyFault, Kill
from grader.harness.lab import Lab
from grader.harness.preemption import send
from grader.harness.printed import lines
from grader.harness.run import Run
from grader.harness.salts import Salts
from grader.harness.workbench import Bench, course_paths
from grader.report.logs import escaped
from grader.report.stop_log import stop_log
from grader.verdicts import INCONCLUSIVE, Finding

EPOCHS, STEPS_PER_EPOCH = 3, 10
STEPS = EPOCHS * STEPS_PER_EPOCH
WHOLE_EPOCHS = "epochs"  # it saves at the end of each epoch


@dataclass(frozen=True)
class Training:
    """The training that calls a task's functions.

    script  with its own flags
    ranks   that it has without --ranks; None: one process
    saves   "steps": --save-every counts; WHOLE_EPOCHS
    """

    script: tuple[str, ...]
    ranks: int | None = None
    saves: str = "steps"
    workers: bool = False  # --workers counts

    def arguments(self, save_every: int, workers: int, seed: int) -> tuple[object, ...]:
        size = ("--seed", seed, "--epochs", EPOCHS, "--steps-per-epoch", STEPS_PER_EPOCH)
        saves = () if self.saves == WHOLE_EPOCHS else ("--save-every", save_every)
        return (*self.script, *size, *saves, *(("--workers", workers) if self.workers else ()))


_MID_EPOCH = Training(("ex01/train.py",), workers=True)
_PREEMPTED = Training(("ex03/train_preempt.py",), workers=True)
_SHARDED = Training(("ex02/train_sharded.py",), ranks=2, saves=WHOLE_EPOCHS)
TRAININGS = {
    "ex01": _MID_EPOCH,
    "ex01.1": Training(("ex01/train_epochs.py",), saves=WHOLE_EPOCHS),
    "ex01.2": Training(("ex01/train_epochs.py", "--rng"), saves=WHOLE_EPOCHS),
    "ex01.3": Training(("ex01/train_epochs.py", "--store"), saves=WHOLE_EPOCHS),
    "ex01.4": _MID_EPOCH,
    "ex01.5": Training(("ex01/train.py", "--every-steps", "5", "--keep", "2"), workers=True),
    "ex02": Training(("ex02/train_ddp.py", "--functions", "save_job"), ranks=2),
    "ex02.1": Training(
        ("ex02/train_ddp.py", "--functions", "save_checkpoint_ddp"), ranks=2, saves=WHOLE_EPOCHS
    ),
    "ex02.2": Training(("ex02/train_ddp.py", "--functions", "save_job"), ranks=2),
    "ex02.3": _SHARDED,
    "ex02.4": _SHARDED,
    "ex02.5": Training(("ex02/train_ddp.py", "--functions", "save_step"), ranks=2),
    "ex03": _PREEMPTED,
    "ex03.1": _PREEMPTED,
    "ex03.2": _PREEMPTED,
    "ex03.3": _PREEMPTED,
    "ex03.4": Training(("ex03/train_preempt.py",), ranks=2, workers=True),
    "ex03.5": _PREEMPTED,
}


def play(
    name: str,
    work: Submission,
    kills: Sequence[int] = (),
    stops: Sequence[int] = (),
    workers: int = 0,
    ranks: int | None = None,
    save_every: int = 4,
    seed: int = 0,
) -> int:
    """Run a training job, kill it after each of `kills` (ex03: SIGTERM in each of `stops`), and
    say what every life did.

    name  of an exercise or a task: a key of TRAININGS

    Returns the exit status of the command: 0 if the resumed run equals an undisturbed one.
    """
    training = TRAININGS[name]
    stopped = name.startswith("ex03")
    if stops and (kills or not stopped):
        raise UsageError("--stop-in works with ex03 only, and not with --kill-after")
    if workers and not training.workers:
        raise UsageError(f"{name} trains without workers: leave --workers out")
    number = ranks or training.ranks
    if ranks and training.ranks is None and not stopped:
        raise UsageError(f"{name} trains in one process: leave --ranks out")
    last = None if number is None else number - 1
    struck_rank = None if stopped else last
    faults: list[AnyFault] = [Kill(after_step=n, rank=struck_rank) for n in sorted(kills)]
    faults += [send("term", step, rank=last) for step in sorted(stops)]
    bench = Bench(work, launchers.choose(), seed, jobs=1)
    bench.salts = Salts(None)
    with closing(bench.launcher), closing(bench):
        script = training.arguments(save_every, workers, seed)
        return _play(Lab(bench, "play"), script, faults, number)


def _play(lab: Lab, script: tuple[Any, ...], faults: list[AnyFault], ranks: int | None) -> int:
    stops = script[0] == stop_runs.SCRIPT
    run = (stop_runs if stops else lab).launch(
        *((lab,) if stops else ()), *script, faults=tuple(faults), ranks=ranks
    )
    for number, life in enumerate(run.lives, 1):
        print(f"--- life {number}" + (f": {life.fault.story}" if life.fault else ""))
        for line in _said(run, number):
            print(f"    {escaped(course_paths(line, lab.bench))}")
        if stops:
            for at, what in stop_log(life):
                print(f"    {at:6.1f} s  {what}")
        else:
            print(
                "    saved after steps "
                f"{', '.join(str(e['step']) for e in life.all('saved')) or 'none'}"
            )
    try:
        if stops:
            stop_assertions.stopped_well(lab, run, stop_runs.yardstick(lab, script, ranks=ranks))
            print(
                "The stopped run equals the undisturbed one, bit for bit."
                if faults
                else "Training is done."
            )
        elif faults:
            rejoins(lab, run, lab.undisturbed(*script, ranks=ranks))
            print("The resumed run equals the undisturbed one, bit for bit.")
        else:
            finished(lab, run)
    except Finding as finding:
        print("--- compared with an undisturbed run" if faults else "--- the run")
        print(course_paths(str(finding).strip("\n"), lab.bench))
        return 3 if finding.verdict == INCONCLUSIVE else 1
    return 0


def _said(run: Run, number: int) -> Iterator[str]:
    """What a life printed. A rank that failed only because another one is gone gets one line, not
    forty.
    """
    life = run.lives[number - 1]
    left_alone = [
        rank
        for rank, process in enumerate(life.processes)
        if (crash := process.first("crash")) and by_others(process, crash)
    ]
    for line in lines(run):
        if line.life == number and not (line.traceback and line.rank in left_alone):
            yield line.text if line.rank is None else f"[rank {line.rank}] {line.text}"
    for rank in left_alone:
        yield f"[rank {rank}] its collective failed: another rank is gone"
