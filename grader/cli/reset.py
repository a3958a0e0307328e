"""`grade reset`: an exercise's starter as it was handed out."""

from __future__ import annotations

import click

from grader.course import catalog, starters
from grader.course.catalog import ROOT


@click.command("reset")
@click.argument("name", metavar="EXERCISE")
def command(name: str) -> None:
    """Restore an exercise's starter; your version is kept."""
    exercise = catalog.find(name)
    where = exercise.starter.relative_to(ROOT)
    kept = starters.reset(exercise)
    if kept is None:
        click.echo(f"{where} is already as it was handed out")
        return
    if kept.exists():
        click.echo(f"your version is kept in {kept.relative_to(ROOT)}")
    click.echo(f"{where} is as it was handed out")
