"""What several commands do with their arguments: names of files, submissions, faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from grader.course import catalog, submissions
from grader.course.catalog import Exercise
from grader.errors import UsageError

T = TypeVar("T")
A = TypeVar("A")


class FileName(click.ParamType):  # type: ignore[type-arg]  # click 8.1's has none
    """A file's or directory's; an empty one, from an unset variable, would mean the current
    directory.
    """

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(value) if value else self.fail("the name is empty", param, ctx)


def submission_of(
    exercise: Exercise, folder: Path | None, solution: bool
) -> submissions.Submission:
    if folder and solution:
        raise UsageError("use either --submission or --solution, not both")
    return submissions.submission(exercise, folder, solution)


def exercises_in(folder: Path | None) -> list[Exercise]:
    """Those that the submission holds; without one, all."""
    known = list(catalog.exercises().values())
    if folder is None:
        return known
    if not folder.is_dir():
        raise UsageError(f"no such submission directory: {folder}")
    inside = [e for e in known if (folder / e.id).is_dir() or (folder / e.folder.name).is_dir()]
    if inside:
        return inside
    fitting = [e for e in known if (folder / e.module).exists()]
    if not fitting:
        raise UsageError(
            f"{folder} doesn't look like a submission; name the exercise: grade ex01 "
            f"--submission {folder}"
        )
    return fitting


def parsed(parse: Callable[[A], T], text: A) -> T:
    """`parse(text)`; a ValueError is the user's mistake."""
    try:
        return parse(text)
    except ValueError as e:
        raise UsageError(str(e)) from e
