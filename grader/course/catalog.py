"""The course on disk: exercises, their tasks, hints, starters and solutions."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grader.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]


def read_toml(path: Path) -> dict[str, Any]:
    return parse_toml(path.read_text(encoding="utf-8"))


def parse_toml(text: str) -> dict[str, Any]:
    data: dict[str, Any] = tomllib.loads(text)
    return data


@dataclass(frozen=True)
class Task:
    id: str  # "ex01.4"
    title: str
    points: int
    needs: tuple[str, ...]  # ids of the tasks it builds on
    functions: tuple[str, ...]
    hints: tuple[str, ...]  # the ladder: each rung says more

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
    def handed_out(self) -> Path:
        """A copy of the pristine starter: students edit the other one."""
        return self.folder.parent / "grader" / "course" / "handed_out" / self.id

    @property
    def points(self) -> int:
        return sum(task.points for task in self.tasks)

    def task(self, number: int | str) -> Task:
        for task in self.tasks:
            if str(number) in (str(task.number), task.id):
                return task
        raise UsageError(
            f"{self.id} has no task {number}; it has {', '.join(str(t.number) for t in self.tasks)}"
        )


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


def after(exercise: Exercise) -> Exercise | None:
    """The next exercise; None after the last."""
    later = [e for e in exercises(exercise.folder.parent).values() if e.id > exercise.id]
    return later[0] if later else None


def find_task(name: str) -> tuple[Exercise, Task]:
    """'ex01.3' -> its exercise and task."""
    exercise, _, number = name.partition(".")
    if not number:
        raise UsageError(f"'{name}' isn't a task; a task looks like ex01.3")
    found = find(exercise)
    return found, found.task(number)


def _read(path: Path) -> Exercise:
    data = read_toml(path)
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
