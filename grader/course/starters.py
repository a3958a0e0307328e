"""Starters as they were handed out: whether one is untouched, and its reset."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from grader.course import derive
from grader.course.catalog import ROOT, Exercise
from grader.course.submissions import Submission
from grader.errors import UsageError


def untouched(exercise: Exercise, work: Submission) -> bool:
    """Is the file that students edit still the starter's? Unknown, so False, without a solution."""
    if not exercise.solution.is_dir():
        return False
    handed_out = derive.starter_files(exercise).get(exercise.module)
    return handed_out is not None and work.files.get(exercise.module) == handed_out


def reset(exercise: Exercise) -> Path | None:
    """Restore the starter; returns where the student's version is kept, None if nothing had
    changed.
    """
    pristine = (
        derive.starter_files(exercise) if exercise.solution.is_dir() else _handed_out(exercise)
    )
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


def _handed_out(exercise: Exercise) -> dict[str, bytes]:
    """Without a solution to derive from: the starter as it first came into this repository."""
    where = f"{exercise.folder.name}/starter/{exercise.module}"

    def git(*args: str) -> bytes:
        return subprocess.run(
            ["git", "-C", str(ROOT), *args], capture_output=True, check=True
        ).stdout

    try:
        first = git("log", "--diff-filter=A", "--format=%H", "--", where).split()
        return {exercise.module: git("show", f"{first[-1].decode()}:{where}")}
    except (OSError, subprocess.CalledProcessError, IndexError):
        raise UsageError(
            f"nothing to reset {exercise.id} to: no solution to derive a starter from, and git "
            f"doesn't know {where}"
        ) from None
