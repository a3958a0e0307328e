"""The course as it lies on disk: exercises, tasks, hints, starters, solutions, submissions."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from grader.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


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
MAX_ENTRIES, MAX_DEPTH = 10_000, 20  # of the walk, whatever is read


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
        if self.module in self.files:
            return ""
        path = self.folder / self.module
        if path.is_symlink():
            return f"{path} is a symbolic link; a submission is plain files"
        if path.is_dir():
            return f"{path} is a directory, and should be a file"
        if not path.exists():
            return f"there is no {self.module} in {self.folder}"
        if path.is_file() and path.stat().st_size > MAX_FILE:
            return f"{path} is larger than {MAX_FILE >> 20} MiB; a submission is source code"
        return f"{path} can't be read"

    def copy_to(self, target: Path) -> Path:
        for name, data in self.files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(data)
        return target


def _snapshot(folder: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    total = 0
    for path in _walk(folder):
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as f:
                data = f.read(MAX_FILE + 1)
        except OSError:
            continue  # gone, or not ours to read
        if len(data) > MAX_FILE:
            continue
        total += len(data)
        if total > MAX_TOTAL or len(files) >= MAX_FILES:
            raise UsageError(f"{folder} holds more than {MAX_FILES} files or {MAX_TOTAL >> 20} MiB; a submission is source code")
        files[str(path.relative_to(folder))] = data
    return files


def _walk(folder: Path) -> list[Path]:
    """The plain files below `folder`, in order; UsageError if it is no submission but a whole disk."""
    found, seen, todo = [], 0, [(folder, 0)]
    while todo:
        here, depth = todo.pop()
        try:
            entries = os.scandir(here)
        except OSError:
            continue
        with entries:
            for entry in entries:
                seen += 1
                if seen > MAX_ENTRIES or depth > MAX_DEPTH:
                    raise UsageError(f"{folder} holds too many files and folders, or too deep ones; a submission is source code")
                if _skipped(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    todo.append((Path(entry.path), depth + 1))
                elif entry.is_file(follow_symlinks=False):
                    found.append(Path(entry.path))
    return sorted(found)


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
