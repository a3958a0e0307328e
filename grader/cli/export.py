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
from grader.exports import (
    canvas,
    classroom50,
    gradescope,
    gradescope_autograder,
    moodle,
    nbgrader,
    result_file,
    results_folder,
    tables,
)
from grader.exports.matching import Report
from grader.exports.requirements import torch
from grader.report.logs import escaped
from grader.report.output import Target


@click.group("export")
def command() -> None:
    """Export results to other systems, and graders that run there."""


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
results_argument = click.argument("results", callback=_path, metavar="RESULTS")
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
    """Write Gradescope's results.json.

    RESULT.json is what `grade --json` wrote; - is standard input.
    """
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
    """Write an autograder to upload to Gradescope.

    It holds setup.sh, run_autograder, the grader, and a README.md on the limits to raise.
    """
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
    help="The student's repository. It gives the classroom, the submission and its time if the "
    "variables of Classroom 50's runner don't.",
)
def classroom50_command(result: Path, output: Path, checkout: Path | None) -> None:
    """Write Classroom 50's result.json.

    RESULT.json is what `grade --json` wrote.

    If a task is inconclusive (neither passed nor failed), it writes nothing and exits with 3.
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
    """Write a GitHub workflow for Classroom 50.

    It grades each push, and publishes the result as a release.
    """
    exercises = [exercise.id for exercise in _chosen(names)]
    _write(output, classroom50.workflow(course, exercises, torch(ROOT)))


# --- gradebooks of a class ------------------------------------------------------------------------


def _class(results: Path, names: tuple[str, ...]) -> tuple[results_folder.Class, tuple[str, ...]]:
    read = results_folder.read(results)
    return read, read.chosen(tuple(catalog.find(name).id for name in names))


def _finish(output: Path, text: str, report: Report) -> None:
    _write(output, text)
    for line in report.lines:
        click.echo(f"grade: {escaped(line)}", err=True)


@command.command("nbgrader")
@results_argument
@exercise_option
@output_option
def nbgrader_command(results: Path, names: tuple[str, ...], output: Path) -> None:
    """Write a gradebook like that of `nbgrader export`."""
    read, exercises = _class(results, names)
    report = Report()
    _finish(output, nbgrader.csv_text(read, exercises, report), report)


@command.command("canvas")
@results_argument
@exercise_option
@output_option
@click.option(
    "--gradebook",
    callback=_path,
    metavar="EXPORTED.csv",
    help="The gradebook that Canvas exported: its column is filled in.",
)
@click.option(
    "--assignment",
    default="",
    metavar="NAME",
    help="The column to fill in, by name or id; of a new file, the assignment's name.",
)
def canvas_command(
    results: Path, names: tuple[str, ...], output: Path, gradebook: Path | None, assignment: str
) -> None:
    """Write a gradebook for Canvas to import.

    Grades that aren't known stay as they are there, and are listed on standard error.
    """
    read, exercises = _class(results, names)
    report = Report()
    if gradebook:
        text = canvas.filled(read, exercises, tables.read(gradebook), assignment, report)
    else:
        text = canvas.fresh(read, exercises, assignment or " ".join(exercises), report)
    _finish(output, text, report)


@command.command("moodle")
@results_argument
@exercise_option
@output_option
@click.option(
    "--worksheet",
    callback=_path,
    metavar="DOWNLOADED.csv",
    help="The grading worksheet that Moodle gave: its grades are filled in.",
)
def moodle_command(
    results: Path, names: tuple[str, ...], output: Path, worksheet: Path | None
) -> None:
    """Write a grading worksheet to upload to Moodle.

    Grades that aren't known stay as they are there, and are listed on standard error.
    """
    read, exercises = _class(results, names)
    report = Report()
    if worksheet:
        text = moodle.filled(read, exercises, tables.read(worksheet), report)
    else:
        text = moodle.fresh(read, exercises, report)
    _finish(output, text, report)
