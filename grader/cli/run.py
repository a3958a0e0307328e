"""`grade run`: the training job with a submission's functions, killed where the user likes.

run_training.py runs it in processes of this machine, run_on_cluster.py (ex04) as a job of Slurm.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from grader.cli.arguments import FileName, submission_of
from grader.course import selection
from grader.course.submissions import Submission
from grader.errors import UsageError


def _steps(option: str, text: str) -> Callable[[Any], Any]:
    return click.option(option, type=int, multiple=True, metavar="STEP", help=text)


@click.command("run")
@click.argument("name", metavar="EXERCISE | TASK")
@_steps("--kill-after", "SIGKILL after this step, then relaunch (repeatable).")
@_steps("--stop-in", "SIGTERM in the middle of this step, then relaunch (ex03; repeatable).")
@click.option(
    "--workers", type=click.Choice(["0", "2"]), default="0", help="DataLoader workers (ex01, ex03)."
)
@click.option(
    "--ranks",
    type=click.IntRange(1, 8),
    metavar="N",
    help="Number of ranks (ex02: 2; ex03: without this, one process). Faults hit the last rank.",
)
@click.option(
    "--save-every", type=click.IntRange(1), default=4, metavar="N", help="Save every N steps (4)."
)
@_steps("--preempt-at", "ex04: preempt the job at this step (repeatable).")
@_steps("--limit-at", "ex04: move the time limit close to this step (repeatable).")
@click.option(
    "--pace",
    type=click.FloatRange(0, 10),
    default=0.3,
    metavar="S",
    help="ex04: seconds that a step takes (0.3).",
)
@click.option(
    "--cluster",
    type=click.Choice(["slurm", "stand-in", "site"]),
    help="ex04: a real Slurm on this machine, a stand-in, or the site's (on a login node).",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31),
    default=0,
    help="Draw model and data from this seed (0).",
)
@click.option(
    "--submission", type=FileName(), metavar="DIR", help="Run the functions in this folder."
)
@click.option("--solution", is_flag=True, help="Run the reference solution.")
def command(
    name: str,
    kill_after: tuple[int, ...],
    stop_in: tuple[int, ...],
    workers: str,
    ranks: int | None,
    save_every: int,
    preempt_at: tuple[int, ...],
    limit_at: tuple[int, ...],
    pace: float,
    cluster: str | None,
    seed: int,
    submission: Path | None,
    solution: bool,
) -> None:
    """Run the training job with your functions, and kill it where you like.

    A task (ex01.1) chooses the training that calls its functions.
    """
    (chosen,) = selection.parse([name])
    exercise = chosen.exercise
    work = submission_of(exercise, submission, solution)
    if exercise.id == "ex04":
        task = chosen.numbers[0] if chosen.numbers else None
        strikes = {"kill": kill_after, "preempt": preempt_at, "limit": limit_at}
        sys.exit(_on_cluster(work, task, strikes, pace, cluster))
    from grader.cli.run_training import STEPS, play

    for option, steps in (("--kill-after", kill_after), ("--stop-in", stop_in)):
        if out := [step for step in steps if not 1 <= step <= STEPS]:
            raise UsageError(f"{option} {out[0]}: the run has steps 1 to {STEPS}")
    if work.problem:
        raise UsageError(work.problem)
    trained = chosen.tasks[0].id if chosen.tasks else exercise.id
    sys.exit(play(trained, work, kill_after, stop_in, int(workers), ranks, save_every, seed))


def _on_cluster(
    work: Submission,
    task: int | None,
    steps: dict[str, tuple[int, ...]],
    pace: float,
    kind: str | None,
) -> int:
    from grader.checks.ex04.job_record import STEPS
    from grader.cli import run_on_cluster
    from grader.slurm.target import Where

    if work.problem:
        raise UsageError(work.problem)
    strikes = [(step, do) for do, at in steps.items() for step in at]
    if wrong := [step for step, _ in strikes if not 1 <= step < STEPS]:
        raise UsageError(f"step {wrong[0]}: the job has steps 1 to {STEPS}")
    return run_on_cluster.play(work, task, strikes, pace, Where(kind) if kind else Where())
