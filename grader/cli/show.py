"""`grade show`: the course, an exercise or a task, and how far you are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from grader.cli.arguments import FileName
from grader.cli.state import PROGRESS
from grader.course import catalog, progress, submissions
from grader.course.catalog import Exercise, Task
from grader.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console


@click.command("show")
@click.argument("name", required=False, metavar="[EXERCISE | TASK]")
@click.option("--submission", type=FileName(), metavar="DIR", help="Progress of this directory.")
def command(name: str | None, submission: Path | None) -> None:
    """Show tasks, points, progress, and where to begin; for a task, its checks."""
    from grader.report import terminal

    out = terminal.console()
    if name and "." in name:
        _show_task(out, *catalog.find_task(name))
        return
    for exercise in [catalog.find(name)] if name else catalog.exercises().values():
        _show_exercise(out, exercise, submission)


def _show_task(out: Console, exercise: Exercise, task: Task) -> None:
    from grader import collection
    from grader.report import terminal

    out.print(f"[bold]{task.id}[/bold]  {task.title}  ({task.points} points)")
    for check in collection.collect(exercise):
        if check.task == task.id:
            out.print(f"\n  {task.id}/{check.slug}", markup=False)
            terminal.show_row(out, "", check.title)


def _show_exercise(out: Console, exercise: Exercise, submission: Path | None) -> None:
    from grader.report import terminal

    last, files = _last_verdicts(exercise, submission)
    out.print(f"[bold]{exercise.id}[/bold]  {exercise.title}  ({exercise.points} points)")
    for task in exercise.tasks:
        needs = f"   builds on {', '.join(task.needs)}" if task.needs else ""
        out.print(f"  {task.id}  {task.title}  ({task.points}){needs}")
        if task.functions:
            terminal.show_row(out, "", ", ".join(task.functions))
        if task.id in last:
            terminal.show_row(out, "", last[task.id].says(files))
    out.print(f"  read   {exercise.folder.name}/README.md")
    names = {exercise.module, *(path.name for path in exercise.starter.glob("*.sbatch"))}
    edited = [f"{exercise.folder.name}/starter/{name}" for name in sorted(names)]
    for n, path in enumerate(edited):
        out.print(f"  {'edit' if n == 0 else '':<7}{path}", highlight=False)
    out.print(
        f"  grade  grade {exercise.id}            one task alone: grade {exercise.id} --task 1"
    )
    out.print(f"  stuck  grade hint {exercise.id}\n")


def _last_verdicts(
    exercise: Exercise, submission: Path | None
) -> tuple[dict[str, progress.Last], str]:
    """Its tasks' last verdicts, and the digest of the files now.

    The course is shown even if a starter can't be read.
    """
    try:
        work = submissions.submission(exercise, submission)
    except UsageError:
        if submission:
            raise
        return {}, ""
    return PROGRESS.of(work.folder), progress.digest(work)
