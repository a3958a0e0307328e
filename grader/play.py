"""Runs a submission outside of grading: `grade run`."""

from __future__ import annotations

from grader.checks.expect import finished, rejoins
from grader.course import Submission
from grader.harness import launcher as launchers
from grader.harness.faults import Kill
from grader.harness.lab import Bench, Lab, course_paths
from grader.verdicts import INCONCLUSIVE, Finding

EPOCHS, STEPS_PER_EPOCH = 3, 10
STEPS = EPOCHS * STEPS_PER_EPOCH


def play(submission: Submission, kills: list[int], workers: int, save_every: int, seed: int) -> int:
    """Run the training job, kill it after each of `kills`, and say what every life did."""
    length = ("--epochs", EPOCHS, "--steps-per-epoch", STEPS_PER_EPOCH)
    flags = ("train.py", "--seed", seed, *length, "--workers", workers, "--save-every", save_every)
    launcher = launchers.choose()
    bench = Bench(submission, launcher, seed, jobs=1)
    try:
        return _play(Lab(bench, "play"), flags, [Kill(after_step=step) for step in sorted(kills)])
    finally:
        launcher.close()
        bench.close()


def _play(lab: Lab, flags: tuple, kills: list) -> int:
    run = lab.launch(*flags, faults=tuple(kills))
    for number, life in enumerate(run.lives, 1):
        print(f"--- life {number}" + (f": {life.fault.story}" if life.fault else ""))
        for line in course_paths(life.text("stdout") + life.text("stderr"), lab.bench).splitlines():
            print(f"    {line}")
        print(f"    saved after steps {', '.join(str(e['step']) for e in life.all('saved')) or 'none'}")
    try:
        if kills:
            rejoins(lab, run, lab.undisturbed(*flags))
            print("The resumed run is the undisturbed one, bit for bit.")
        else:
            finished(lab, run)
    except Finding as finding:
        print("--- compared with an undisturbed run" if kills else "--- the run")
        print(course_paths(str(finding).strip("\n"), lab.bench))
        return 3 if finding.verdict == INCONCLUSIVE else 1
    return 0
