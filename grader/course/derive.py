"""Starters are derived from solutions: one hand-written version, so the two can't drift apart.

    ### BEGIN SOLUTION
    the solution's lines, which the starter doesn't get
    ### END SOLUTION
    #| what the starter gets instead, uncommented: "#| " is removed

nbgrader's marker syntax, in .py and .sbatch files alike.
"""

from __future__ import annotations

import re
from pathlib import Path

from grader.course.catalog import Exercise
from grader.errors import UsageError

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
DERIVED = (".py", ".sbatch")
_INSTEAD = re.compile(r"(\s*)#\| ?(.*)")


def starter_text(text: str, name: str = "the solution") -> str:
    """The starter of a solution's text. UsageError, with the line, for markers that don't pair
    up.
    """
    out, since = [], 0
    for number, line in enumerate(text.splitlines(), 1):
        mark = line.strip()
        if mark == BEGIN:
            if since:
                raise UsageError(f"{name}, line {number}: {BEGIN} inside the block of line {since}")
            since = number
        elif mark == END:
            if not since:
                raise UsageError(f"{name}, line {number}: {END} without {BEGIN}")
            since = 0
        elif since:
            continue
        elif m := _INSTEAD.fullmatch(line):
            out.append(f"{m[1]}{m[2]}".rstrip())
        else:
            out.append(line)
    if since:
        raise UsageError(f"{name}, line {since}: {BEGIN} without {END}")
    return _without_unused_imports("\n".join(out) + "\n")


def _without_unused_imports(text: str) -> str:
    """Imports that only the solution needs would be a hint, and noise for linters."""
    kept = []
    for line in text.splitlines(keepends=True):
        m = re.fullmatch(r"import (\w+)\n", line)
        if m and not re.search(rf"\b{m[1]}\.", text):
            continue
        kept.append(line)
    return re.sub(r"\n{4,}", "\n\n\n", "".join(kept))


def starter_files(exercise: Exercise) -> dict[str, bytes]:
    """Name -> content of every file of the exercise's pristine starter."""
    files = {}
    for path in sorted(exercise.solution.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
            name = str(path.relative_to(exercise.solution))
            data = path.read_bytes()
            files[name] = (
                starter_text(data.decode(), str(path)).encode() if path.suffix in DERIVED else data
            )
    return files


def write_starter(exercise: Exercise) -> list[Path]:
    """Derive starter/, and its copy for resets, from solution/; the files that changed."""
    changed = []
    for name, data in starter_files(exercise).items():
        for folder in (exercise.starter, exercise.handed_out):
            path = folder / name
            if not path.exists() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                changed.append(path)
    return changed
