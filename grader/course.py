"""The course as it lies on disk: exercises, tasks, hints, starters, solutions, submissions."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


class UsageError(Exception):
    """The user's input is wrong: one clear line, exit status 2."""


@dataclass(frozen=True)
class Task:
    id: str  # "ex01.4"
    title: str
    points: int
    needs: tuple[str, ...]  # ids of the tasks it builds on
    functions: tuple[str, ...]
    hints: tuple[str, ...]  # the ladder: each rung tells more

    @property
    def number(self) -> int:
        return int(self.id.split(".")[1])


@dataclass(frozen=True)
class Exercise:
    id: str  # "ex01"
    title: str
    folder: Path
    module: str  # the file that students edit
    tasks: tuple[Task, ...] = field(repr=False)

    @property
    def starter(self) -> Path:
        return self.folder / "starter"

    @property
    def solution(self) -> Path:
        return self.folder / "solution"

    @property
    def points(self) -> int:
        return sum(task.points for task in self.tasks)

    def task(self, number: int | str) -> Task:
        for task in self.tasks:
            if str(number) in (str(task.number), task.id):
                return task
        raise UsageError(f"{self.id} has no task {number}; it has {', '.join(str(t.number) for t in self.tasks)}")


def exercises(root: Path = ROOT) -> dict[str, Exercise]:
    """Every exercise in the course by id, in order."""
    found = [_read(path) for path in sorted(root.glob("ex[0-9][0-9]-*/exercise.toml"))]
    return {exercise.id: exercise for exercise in found}


def find(name: str) -> Exercise:
    """The exercise called `name`: ex01, or its folder's full name."""
    known = exercises()
    for exercise in known.values():
        if name.rstrip("/") in (exercise.id, exercise.folder.name):
            return exercise
    raise UsageError(f"no exercise '{name}'; there are {', '.join(known)}")


def find_task(name: str) -> tuple[Exercise, Task]:
    """'ex01.3' -> its exercise and task."""
    exercise, _, number = name.partition(".")
    if not number:
        raise UsageError(f"'{name}' names no task; a task looks like ex01.3")
    found = find(exercise)
    return found, found.task(number)


def _read(path: Path) -> Exercise:
    data = tomllib.loads(path.read_text())
    tasks = tuple(
        Task(
            f"{data['id']}.{n}",
            t["title"],
            t["points"],
            tuple(f"{data['id']}.{need}" for need in t.get("needs", [])),
            tuple(t["functions"]),
            tuple(t["hints"]),
        )
        for n, t in enumerate(data["tasks"], 1)
    )
    return Exercise(data["id"], data["title"], path.parent, data["module"], tasks)


# --- submissions -----------------------------------------------------------------------------------

MAX_FILE, MAX_TOTAL, MAX_FILES = 4 << 20, 32 << 20, 1000


class Submission:
    """What is graded: the files of one folder, as they were when grading began.

    Lives run copies, so nothing that they do reaches the student's own files.
    """

    def __init__(self, folder: Path, module: str, files: dict[str, bytes] | None = None):
        self.folder, self.module = folder, module
        self.files = _snapshot(folder) if files is None else files
        self.key = str(folder)

    @property
    def problem(self) -> str:
        """Why it can't be run at all; empty if it can."""
        if self.module not in self.files:
            return f"there is no {self.module} in {self.folder}"
        return ""

    def copy_to(self, target: Path) -> Path:
        for name, data in self.files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(data)
        return target


def _snapshot(folder: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    total = 0
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if not _skipped(n))
        for path in (Path(here, n) for n in sorted(names) if not _skipped(n)):
            try:
                if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_FILE:
                    continue
                data = path.read_bytes()
            except OSError:
                continue  # gone, or not ours to read
            total += len(data)
            if total > MAX_TOTAL or len(files) >= MAX_FILES:
                raise UsageError(f"{folder} holds more than {MAX_FILES} files or {MAX_TOTAL >> 20} MiB; a submission is source code")
            files[str(path.relative_to(folder))] = data
    return files


def _skipped(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"


def submission(exercise: Exercise, where: Path | None, solution: bool = False) -> Submission:
    """The submission of one exercise: in the course itself, or in the directory `where`.

    `where` is laid out as starter/ is, or holds such directories named ex01... or as the exercises are.
    """
    if solution:
        if not exercise.solution.is_dir():
            raise UsageError(f"this checkout has no solutions: {exercise.solution} is missing")
        return Submission(exercise.solution, exercise.module)
    if where is None:
        return Submission(exercise.starter, exercise.module)
    if not where.is_dir():
        raise UsageError(f"no such submission directory: {where}")
    for name in (exercise.folder.name, exercise.id):
        inner = where / name
        if inner.is_dir():
            return Submission(inner / "starter" if (inner / "starter").is_dir() else inner, exercise.module)
    return Submission(where, exercise.module)
