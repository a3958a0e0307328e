"""`grade export SYSTEM ...`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from grader.course import catalog
from grader.course.catalog import ROOT, Exercise
from grader.course.release import writing
from grader.errors import UsageError
from grader.exports import classroom50, gradescope, gradescope_autograder, result_file
from grader.exports.requirements import torch
from grader.report.output import Target


@click.group("export")
def command() -> None:
    """Results for other systems, and graders that run in them."""


def _path(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> Path | None:
    if value == "":
        raise UsageError("a file's name is empty")
    return Path(value) if value else None


result_argument = click.argument("result", callback=_path, metavar="RESULT.json")
output_option = click.option(
    "-o",
    "--output",
    default="-",
    callback=_path,
    metavar="FILE",
    help="Write this file (standard output).",
)
exercise_option = click.option(
    "--exercise",
    "names",
    multiple=True,
    metavar="EXERCISE",
    help="Only this exercise (repeatable).",
)
visibility_option = click.option(
    "--visibility",
    type=click.Choice(gradescope.VISIBILITIES),
    default="visible",
    help="When students see the tests, and with them their score (visible).",
)


def _write(output: Path, text: str) -> None:
    target = Target(output)
    try:
        target.write(text)
    finally:
        target.close()


def _chosen(names: tuple[str, ...]) -> list[Exercise]:
    ids = {catalog.find(name).id for name in names}
    return [e for e in catalog.exercises().values() if not ids or e.id in ids]


@command.command("gradescope")
@result_argument
@output_option
@visibility_option
def gradescope_command(result: Path, output: Path, visibility: str) -> None:
    """Gradescope's results.json from what `grade --json` wrote (- for standard input)."""
    _write(output, gradescope.results_text(result_file.read(result), visibility))


@command.command("gradescope-autograder")
@click.argument("target", callback=_path, metavar="DIR|FILE.zip")
@exercise_option
@click.option(
    "--minutes",
    type=click.IntRange(5, gradescope_autograder.MOST_MINUTES),
    default=30,
    help="The timeout that you set on Gradescope (30).",
)
@click.option(
    "--sandbox",
    type=click.Choice(("auto", "require")),
    default="auto",
    help="auto takes the best that the container allows, require grades nothing without one.",
)
@visibility_option
def autograder_command(
    target: Path, names: tuple[str, ...], minutes: int, sandbox: str, visibility: str
) -> None:
    """An autograder to upload to Gradescope: setup.sh, run_autograder, and the grader."""
    files = gradescope_autograder.files(ROOT, _chosen(names), minutes, sandbox, visibility)
    writing.write(target, files)
    click.echo(f"{target}: {len(files)} files; its README.md says which limits to raise")


@command.command("classroom50")
@result_argument
@output_option
@click.option(
    "--checkout",
    callback=_path,
    metavar="DIR",
    help="The student's repository: names the classroom, the submission and its time where the "
    "variables of Classroom 50's runner don't.",
)
def classroom50_command(result: Path, output: Path, checkout: Path | None) -> None:
    """Classroom 50's result.json from what `grade --json` wrote.

    Exit status 3, and nothing written, if some task is inconclusive: that is neither passed nor
    failed.
    """
    read = result_file.read(result)
    if read.inconclusive:
        click.echo(
            f"grade: {', '.join(read.inconclusive)}: inconclusive, and Classroom 50 knows only "
            "passed and failed; grade again",
            err=True,
        )
        sys.exit(3)
    _write(output, classroom50.result_text(read, classroom50.identify(os.environ, checkout)))


@command.command("classroom50-workflow")
@click.option(
    "--course",
    required=True,
    metavar="OWNER/NAME@REF",
    help="The repository with the grader (a hand-out, say), and a tag, branch or commit of it.",
)
@exercise_option
@output_option
def workflow_command(course: str, names: tuple[str, ...], output: Path) -> None:
    """A GitHub workflow that grades each push and publishes the result for Classroom 50."""
    exercises = [exercise.id for exercise in _chosen(names)]
    _write(output, classroom50.workflow(course, exercises, torch(ROOT)))
