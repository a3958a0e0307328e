"""`grade export SYSTEM ...`."""

from __future__ import annotations

from pathlib import Path

import click

from grader.course import catalog
from grader.course.catalog import ROOT, Exercise
from grader.course.release import writing
from grader.errors import UsageError
from grader.exports import gradescope, gradescope_autograder, result_file
from grader.report.output import Target


@click.group("export")
def export() -> None:
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


@export.command("gradescope")
@result_argument
@output_option
@visibility_option
def gradescope_command(result: Path, output: Path, visibility: str) -> None:
    """Gradescope's results.json from what `grade --json` wrote (- for standard input)."""
    _write(output, gradescope.results_text(result_file.read(result), visibility))


@export.command("gradescope-autograder")
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
