"""`grade release DIR`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from grader.course import catalog
from grader.course.catalog import ROOT
from grader.course.release import leaks, trial, writing
from grader.course.release.contents import contents
from grader.errors import UsageError

NAME = "fault-tolerant-training"  # the folder in a zip file, whatever the file is called


@click.command("release")
@click.argument("target", metavar="DIR|FILE.zip")
@click.option(
    "--exercise",
    "names",
    multiple=True,
    metavar="EXERCISE",
    help="Hand out only this exercise (repeatable).",
)
@click.option("--without-hints", is_flag=True, help="Leave out the hints of `grade hint`.")
@click.option("--no-check", is_flag=True, help="Don't grade the hand-out before it is written.")
def command(target: str, names: tuple[str, ...], without_hints: bool, no_check: bool) -> None:
    """Make the hand-out for students, without the answers.

    The command searches it for lines of the solutions, and grades its starters: they must get no
    points.
    """
    if not target:
        raise UsageError("the hand-out's name is empty")
    known = list(catalog.exercises().values())
    chosen = sorted({catalog.find(n).id for n in names}) or [e.id for e in known]
    exercises = [e for e in known if e.id in chosen]
    writing.check_target(Path(target))
    files = contents(ROOT, exercises, hints=not without_hints)
    secret = leaks.secret_lines(known, files, hints=not without_hints)
    if found := leaks.find(files, secret):
        for leak in found:
            click.echo(f"grade: {leak}", err=True)
        _refuse("remove them, or add what students may see to grader/course/release/shown.txt")
    if not no_check:
        click.echo(f"grading the hand-out's starters: {', '.join(chosen)} ...")
        if wrong := trial.problems(files, exercises):
            for problem in wrong:
                click.echo(f"grade: {problem}", err=True)
            _refuse("a hand-out must be gradable, and its starters get no points")
    writing.write(Path(target), files, top=NAME)
    points = sum(exercise.points for exercise in exercises)
    graded = "not graded" if no_check else f"its starters get 0 of {points} points"
    click.echo(f"{target}: {len(files)} files, no line of a solution, {graded}")


def _refuse(text: str) -> None:
    click.echo(f"grade: nothing was written; {text}", err=True)
    sys.exit(1)
