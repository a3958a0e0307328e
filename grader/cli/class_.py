"""`grade class`: grade everything that a class handed in. What it does: grader/classroom."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import click

from grader.cli.arguments import FileName
from grader.errors import UsageError
from grader.harness import sandbox


@click.command("class")
@click.argument("submissions", type=FileName(), metavar="SUBMISSIONS")
@click.option(
    "--out",
    "folder",
    type=FileName(),
    metavar="RESULTS",
    help="The folder for the results (SUBMISSIONS-results, in the current directory).",
)
@click.option(
    "--exercise",
    "exercises",
    multiple=True,
    metavar="EX",
    help="Grade only this exercise (repeatable); without it, those that were handed in.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Submissions to grade at a time (half the number of cores).",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31),
    metavar="N",
    help="The seed for all submissions (a new one for a new RESULTS).",
)
@click.option(
    "--retry-inconclusive",
    is_flag=True,
    help="Grade again where nothing was proved.",
)
@click.option("--regrade", is_flag=True, help="Grade everything again, graded or not.")
@click.option(
    "--grading-limit",
    type=click.FloatRange(5, 86400),
    default=1800.0,
    metavar="S",
    help="Seconds that one exercise of one student may take (1800).",
)
@click.option(
    "--sandbox",
    "policy",
    type=click.Choice(sandbox.POLICIES),
    default="require",
    help="require refuses to run students' code without a sandbox (the default here).",
)
@click.option(
    "--cluster",
    type=click.Choice(["slurm", "stand-in"]),
    help="ex04: a real Slurm on the grading machine, or a stand-in.",
)
@click.option("--slurm", is_flag=True, help="Grade on a cluster, from its login node.")
@click.option("--partition", metavar="P", help="... with --slurm: the partition.")
@click.option("--account", metavar="A", help="... with --slurm: the account.")
@click.option(
    "--array", type=click.IntRange(1), metavar="N", help="... with --slurm: jobs at a time (64)."
)
def command(
    submissions: Path,
    folder: Path | None,
    exercises: tuple[str, ...],
    jobs: int | None,
    seed: int | None,
    retry_inconclusive: bool,
    regrade: bool,
    grading_limit: float,
    policy: str,
    cluster: str | None,
    slurm: bool,
    partition: str | None,
    account: str | None,
    array: int | None,
) -> None:
    """Grade everything that a class handed in.

    SUBMISSIONS is a folder with a folder or an archive for each student; or what Gradescope,
    Canvas, Moodle, nbgrader or a classroom of clones gives you, as a folder or as one archive.

    If it is killed, run the same command again: it continues. Exit status: 0 everything is graded,
    2 wrong usage, 3 something couldn't be graded, or is inconclusive.
    """
    from grader import engine
    from grader.classroom import grading
    from grader.classroom import slurm as on_slurm
    from grader.classroom.records import Student
    from grader.classroom.session import Grade, Session
    from grader.classroom.worker import Unit
    from grader.report import terminal

    if not slurm and (partition or account or array):
        raise UsageError("--partition, --account and --array go with --slurm")
    if slurm and jobs:
        raise UsageError("--jobs is for this machine; with --slurm, --array limits the jobs")
    folder = folder or Path(f"{submissions.resolve().name.split('.')[0]}-results")
    grade: Grade
    if slurm:
        options = on_slurm.Options(partition, account, array or 64)
        at_once, inside = options.at_once, options.cores
        on_slurm.check()
        grade = partial(on_slurm.grade_on_slurm, options=options, folder=folder.resolve())
    else:
        sandbox.choose(policy)  # an error before any grading
        cores = engine.cores()
        at_once = jobs or max(1, cores // 2)
        inside = max(1, cores // at_once)
        grade = partial(grading.grade_here, at_once=at_once)

    def unit(student: Student, exercise: str) -> Unit:
        return Unit(
            os.path.abspath(folder),
            student.id,
            exercise,
            inside,
            grading_limit,
            policy,
            cluster or "",
        )

    standings = Session(
        terminal.console(),
        submissions,
        folder,
        exercises,
        seed,
        regrade,
        retry_inconclusive,
        at_once,
        unit,
        grade,
    ).run()
    sys.exit(0 if all(one.settled for one in standings) else 3)
