"""Starters as they were handed out: whether one is untouched, and its reset.

Students edit starter/, a hand-out may lack the solutions, and a zip file has no git history. So
grader/course/handed_out keeps a copy; `grade dev derive` writes it together with the starter.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from grader.course.catalog import Exercise
from grader.course.submissions import Submission
from grader.errors import UsageError


def handed_out(exercise: Exercise) -> dict[str, bytes]:
    """Name -> content of every file of the starter as it was handed out; empty if unknown."""
    return Submission(exercise.handed_out, exercise.module).files


def untouched(exercise: Exercise, work: Submission) -> bool:
    """Is the file that students edit still the starter's?"""
    original = handed_out(exercise).get(exercise.module)
    return original is not None and work.files.get(exercise.module) == original


def reset(exercise: Exercise) -> Path | None:
    """Restore the starter; returns where the student's version is kept, None if nothing had
    changed.
    """
    pristine = handed_out(exercise)
    if not pristine:
        raise UsageError(f"nothing to reset {exercise.id} to: no files in {exercise.handed_out}")
    if exercise.starter.is_dir() and _files(exercise) == pristine:
        return None
    new = exercise.folder / f"starter.new-{os.getpid()}"
    aside = _free_name(exercise)
    try:
        for file, data in pristine.items():
            (new / file).parent.mkdir(parents=True, exist_ok=True)
            (new / file).write_bytes(data)
        if os.path.lexists(exercise.starter):
            exercise.starter.rename(aside)
        new.rename(exercise.starter)
    except OSError as e:
        shutil.rmtree(new, ignore_errors=True)
        raise UsageError(f"can't reset {exercise.id}: {e.strerror}: {e.filename}") from e
    return aside


def _files(exercise: Exercise) -> dict[str, bytes] | None:
    try:
        return Submission(exercise.starter, exercise.module).files
    except UsageError:  # too many to be a starter
        return None


def _free_name(exercise: Exercise) -> Path:
    first = exercise.folder / f"starter.kept-{time.strftime('%Y%m%d-%H%M%S')}"
    aside, number = first, 1
    while os.path.lexists(aside):
        number += 1
        aside = first.with_name(f"{first.name}_{number}")
    return aside
