"""`grade dev derive | check | matrix | notebook`: what they do is in grader/authoring."""

from __future__ import annotations

import sys

import click

from grader.cli.arguments import parsed
from grader.course import catalog, derive
from grader.course.catalog import ROOT, Exercise
from grader.errors import UsageError


@click.group("dev")
def command() -> None:
    """Commands for course authors."""


def _named(names: tuple[str, ...]) -> list[Exercise]:
    """These exercises; without names, all."""
    return [catalog.find(n) for n in names] or list(catalog.exercises().values())


@command.command("derive")
@click.argument("names", nargs=-1)
def derive_command(names: tuple[str, ...]) -> None:
    """Derive starters, samples and diffs in documentation, and templates/checkpoint_utils.py."""
    from grader.authoring import amalgamation, integrations, samples

    for exercise in _named(names):
        for file in derive.write_starter(exercise):
            click.echo(f"wrote {file.relative_to(ROOT)}")
    for page in parsed(samples.write, ROOT):
        click.echo(f"wrote the samples in {page.relative_to(ROOT)}")
    for page in integrations.write(ROOT):
        click.echo(f"wrote the diffs in {page.relative_to(ROOT)}")
    for path in parsed(amalgamation.write, ROOT):
        click.echo(f"wrote {path.relative_to(ROOT)}")


@command.command("check")
@click.option("--grade", "grading", is_flag=True, help="Also grade starters and solutions.")
def check_command(grading: bool) -> None:
    """Check that the course is consistent: starters, titles, hints, samples, mutants ..."""
    from grader.authoring import dev_check

    sys.exit(dev_check.main(grading))


@command.command("matrix")
@click.argument("names", nargs=-1)
@click.option("--write", is_flag=True, help="Write the tables: grader/mutants/ex01/README.md ...")
@click.option("--seed", type=int, help="Grade with this seed.")
@click.option(
    "--mutant",
    "only",
    multiple=True,
    metavar="NAME",
    help="Only this one (repeatable); the table's other rows stay.",
)
def matrix_command(
    names: tuple[str, ...], write: bool, seed: int | None, only: tuple[str, ...]
) -> None:
    """Grade every mutant and print the table of mutants and the tasks that catch them."""
    from grader.authoring import kill_matrix

    chosen = _named(names)
    if only and len(chosen) != 1:
        raise UsageError("--mutant goes with one exercise: grade dev matrix ex01 --mutant in-place")
    sys.exit(max([kill_matrix.main(exercise, write, seed, only) for exercise in chosen]))


@command.command("notebook")
@click.argument("names", nargs=-1)
def notebook_command(names: tuple[str, ...]) -> None:
    """Build and execute the notebooks from their sources."""
    from grader.authoring.build_notebooks import build

    for exercise in _named(names):
        click.echo(f"wrote {build(exercise).relative_to(ROOT)}")
