"""Runs a submission outside of grading: `grade run`, and the notebooks."""

from __future__ import annotations

import contextlib
from pathlib import Path

from grader.course import Submission
from grader.harness import launcher as launchers
from grader.harness.faults import Kill
from grader.harness.lab import Bench, Lab, course_paths
from grader.harness.run import Run


@contextlib.contextmanager
def lab(submission: Submission, seed: int = 0):
    """A lab of one submission: launches runs, under faults. For notebooks and experiments.

    >>> with lab(submission) as it:
    ...     run = it.launch("train.py", "--save-every", 4, faults=[Kill(after_step=14)])
    ...     run.trajectory.steps[15]["loss"]
    """
    launcher = launchers.choose()
    bench = Bench(submission, launcher, seed, jobs=1)
    try:
        yield Lab(bench, "play")
    finally:
        launcher.close()
        bench.close()


def losses(run: Run) -> dict[int, float]:
    """Step -> training loss, of what the run trained in the end."""
    return {step: float.fromhex(record["loss"]) for step, record in run.trajectory.steps.items()}


def play(submission: Submission, kills: list[int], workers: int, save_every: int, seed: int) -> int:
    """Run the training job, kill it after each of `kills`, and say what every life did."""
    from grader.checks.expect import finished, rejoins
    from grader.verdicts import Finding

    flags = ("train.py", "--seed", seed, "--workers", workers, "--save-every", save_every)
    with lab(submission, seed) as it:
        run = it.launch(*flags, faults=tuple(Kill(after_step=step) for step in sorted(kills)))
        for number, life in enumerate(run.lives, 1):
            print(f"--- life {number}" + (f": {life.fault.story}" if life.fault else ""))
            for line in course_paths(life.text("stdout") + life.text("stderr"), it.bench).splitlines():
                print(f"    {line}")
            print(f"    saved after steps {', '.join(str(e['step']) for e in life.all('saved')) or 'none'}")
        try:
            if kills:
                rejoins(it, run, it.undisturbed(*flags))
                print("The resumed run is the undisturbed one, bit for bit.")
            else:
                finished(it, run)
        except Finding as finding:
            print("--- compared with an undisturbed run" if kills else "--- the run")
            print(course_paths(str(finding).strip("\n"), it.bench))
            return 1
    return 0


def work_of(exercise_id: str, where: str | Path | None = None) -> Submission:
    """The student's own work of an exercise (or the submission `where`), for notebooks."""
    from grader import course

    exercise = course.find(exercise_id)
    return course.submission(exercise, Path(where) if where else None)


__all__ = ["Kill", "Lab", "Run", "lab", "losses", "play", "work_of"]
