"""`grade hint`: one rung of a task's ladder of hints at a time."""

from __future__ import annotations

import click

from grader.cli.state import PROGRESS, STATE
from grader.course import catalog


@click.command("hint")
@click.argument("name", required=False, metavar="[EXERCISE | TASK]")
@click.option("--again", is_flag=True, help="Begin again at the first hint.")
def command(name: str | None, again: bool) -> None:
    """Show the next hint for a task, or for an exercise's first unsolved task.

    Without a name, it takes the exercise that you graded last.
    """
    from grader.course.hints import Seen
    from grader.report import terminal

    out = terminal.console()
    if name and "." in name:
        _, task = catalog.find_task(name)
    else:
        known = catalog.exercises().values()
        exercise = catalog.find(name) if name else PROGRESS.last_worked_on(known)
        found = PROGRESS.first_not_passed(exercise, exercise.starter)
        if found is None:
            out.print(f"{exercise.id}: every task is passed. {PROGRESS.what_next(exercise)}")
            return
        task = found
    seen = Seen(STATE / "hints.json")
    rung = 0 if again else seen.next_rung(task)
    terminal.show_hint(out, task, rung)
    seen.remember(task, rung)
