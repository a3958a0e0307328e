"""Runs a submission outside of grading: `grade run`."""

from __future__ import annotations

from grader.checks.endings import finished
from grader.checks.ex03 import stop_assertions
from grader.checks.ranks import by_others
from grader.checks.trajectories import rejoins
from grader.course.submissions import Submission
from grader.errors import UsageError
from grader.harness import launcher as launchers
from grader.harness.faults import AnyFault, Kill
from grader.harness.lab import Bench, Lab, Salts, course_paths
from grader.harness.preemption import send
from grader.harness.run import Life
from grader.report.logs import escaped
from grader.report.timeline import timeline
from grader.verdicts import INCONCLUSIVE, Finding

EPOCHS, STEPS_PER_EPOCH = 3, 10
STEPS = EPOCHS * STEPS_PER_EPOCH


def play(
    exercise_id: str,
    work: Submission,
    kills: list[int],
    stops: list[int],
    workers: int,
    ranks: int | None,
    save_every: int,
    seed: int,
) -> int:
    """Run the training job, kill it after each of `kills` (ex03: SIGTERM in each of `stops`), and
    say what every life did.
    """
    flags = (
        "--seed",
        seed,
        "--epochs",
        EPOCHS,
        "--steps-per-epoch",
        STEPS_PER_EPOCH,
        "--save-every",
        save_every,
    )
    faults: list[AnyFault] = [Kill(after_step=step) for step in sorted(kills)]
    script: tuple[object, ...]
    number: int | None
    if stops and (kills or exercise_id != "ex03"):
        raise UsageError("--stop-in goes with ex03, and without --kill-after")
    if exercise_id == "ex01":
        script, number = ("ex01/train.py", *flags, "--workers", workers), None
    elif exercise_id == "ex02":
        number = ranks or 2
        script = ("ex02/train_ddp.py", "--functions", "save_job", *flags)
        faults = [Kill(after_step=fault.step, rank=number - 1) for fault in faults]
    elif exercise_id == "ex03":
        script, number = ("ex03/train_preempt.py", *flags, "--workers", workers), ranks
        faults = faults or [
            send("term", step, rank=None if ranks is None else ranks - 1) for step in sorted(stops)
        ]
    else:
        raise UsageError(f"{exercise_id} has no run for `grade run`; ex01, ex02 and ex03 have")
    launcher = launchers.choose()
    bench = Bench(work, launcher, seed, jobs=1)
    bench.salts = Salts(None)
    try:
        return _play(Lab(bench, "play"), script, faults, number)
    finally:
        launcher.close()
        bench.close()


def _said(life: Life) -> str:
    """What it printed. A rank that failed only because another one is gone gets one line, not
    forty.
    """
    if life.world == 1:
        return life.text("stdout") + life.text("stderr")
    text = life.text("stdout")
    for rank, of_rank in enumerate(life.processes):
        crash = of_rank.first("crash")
        if crash and by_others(of_rank, crash):
            text += f"[rank {rank}] its collective failed: another rank is gone\n"
        else:
            text += "".join(
                f"[rank {rank}] {line}\n" for line in of_rank.text("stderr").splitlines()
            )
    return text


def _play(lab: Lab, script: tuple, faults: list[AnyFault], ranks: int | None) -> int:
    stops = script[0] == stop_assertions.SCRIPT
    run = (stop_assertions if stops else lab).launch(
        *((lab,) if stops else ()), *script, faults=tuple(faults), ranks=ranks
    )
    for number, life in enumerate(run.lives, 1):
        print(f"--- life {number}" + (f": {life.fault.story}" if life.fault else ""))
        for line in escaped(course_paths(_said(life), lab.bench)).splitlines():
            print(f"    {line}")
        if stops:
            for at, what in timeline(life):
                print(f"    {at:6.1f} s  {what}")
        else:
            print(
                "    saved after steps "
                f"{', '.join(str(e['step']) for e in life.all('saved')) or 'none'}"
            )
    try:
        if stops:
            stop_assertions.stopped_well(
                lab, run, stop_assertions.yardstick(lab, script, ranks=ranks)
            )
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
