"""Reads the folder with a whole class's results (schema grade-class/v1).

RESULTS/class.json                         which exercises were graded
RESULTS/students/ID/submission.json        who submitted what, and what of it can't be graded
RESULTS/students/ID/result.json            what `grade --json` writes; absent if nothing can
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grader.classroom import records
from grader.errors import UsageError
from grader.exports import result_file
from grader.exports.result_file import Result

SCHEMA = records.SCHEMA
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Student:
    """A student, as the system named them that the submissions come from."""

    id: str
    name: str = ""
    email: str = ""
    ids: dict[str, str] = field(default_factory=dict)  # "canvas_user_id", ...
    submitted: str = ""  # ISO 8601
    late: bool | None = None
    status: str = ""
    problem: str = ""  # why nothing of it can be graded
    problems: dict[str, str] = field(default_factory=dict)  # exercise -> why it can't be
    result: Result | None = None

    @property
    def shown(self) -> str:
        return f"{self.id} ({self.name})" if self.name else self.id

    def grade(self, exercises: tuple[str, ...]) -> Grade:
        """The points for these exercises together, or why there are none yet."""
        if self.problem or self.status == UNREADABLE or self.result is None:
            why = "unreadable" if self.status == UNREADABLE else "there is no result"
            return Grade(None, 0, self.problem or why)
        found = {exercise.id: exercise for exercise in self.result.exercises}
        if missing := [n for n in exercises if n not in found or n in self.problems]:
            reasons = [self.problems.get(n, f"there is no result of {n}") for n in missing]
            return Grade(None, 0, "; ".join(reasons))
        of = [found[name] for name in exercises]
        most = sum(exercise.max_score for exercise in of)
        if open_tasks := [task for exercise in of for task in exercise.inconclusive]:
            return Grade(None, most, f"inconclusive: {', '.join(open_tasks)}")
        return Grade(sum(exercise.score for exercise in of), most)


@dataclass(frozen=True)
class Grade:
    """Points; without any, why. Nothing that wasn't proved becomes a zero."""

    score: int | None
    max_score: int
    why: str = ""


@dataclass(frozen=True)
class Class:
    exercises: tuple[str, ...]
    students: tuple[Student, ...]

    def chosen(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The exercises of these names; without names, all that were graded."""
        if unknown := [name for name in names if name not in self.exercises]:
            raise UsageError(
                f"these results have no {unknown[0]}; they have {', '.join(self.exercises)}"
            )
        return tuple(name for name in self.exercises if not names or name in names)

    def max_score(self, exercises: tuple[str, ...]) -> int:
        """Of the first student that was graded: all are graded by the same course."""
        grades = (student.grade(exercises) for student in self.students)
        return next((grade.max_score for grade in grades if grade.max_score), 0)


def read(folder: Path) -> Class:
    """UsageError, in one line, if the folder doesn't hold a class's results."""
    file = folder / "class.json"
    if not file.is_file():
        raise UsageError(f"{folder} holds no results of a class: there is no class.json in it")
    data: dict[str, Any] = result_file.load(file, SCHEMA)
    exercises = data.get("exercises")
    if not isinstance(exercises, list) or not all(isinstance(name, str) for name in exercises):
        raise UsageError(f"{file} has no proper 'exercises'")
    settings = records.Settings.of(folder) if "course" in data else None
    found = sorted((folder / "students").glob("*/submission.json"))
    return Class(tuple(exercises), tuple(_student(file, settings) for file in found))


def _student(file: Path, settings: records.Settings | None) -> Student:
    data: dict[str, Any] = result_file.load(file, SCHEMA)
    late = data.get("late")
    result, unreadable = _result(file.with_name("result.json"))
    return Student(
        id=_text(data, "student") or file.parent.name,
        name=_text(data, "name"),
        email=_text(data, "email"),
        ids=_texts(data, "ids"),
        submitted=_text(data, "submitted"),
        late=late if isinstance(late, bool) else None,
        status=_text(data, "status"),
        problem=_text(data, "problem") or unreadable,
        problems=_texts(data, "problems") | _outdated(file.parent, data, settings),
        result=result,
    )


def _outdated(
    folder: Path, data: dict[str, Any], settings: records.Settings | None
) -> dict[str, str]:
    """The exercises whose result is that of other files, or of another course, than are there."""
    if settings is None or not (folder / "graded").is_dir():
        return {}
    student = records.Student(folder, data)
    return {
        exercise: f"{exercise} was handed in again, and isn't graded since"
        for exercise in student.digests
        if student.graded(exercise, settings) is None
    }


def _result(file: Path) -> tuple[Result | None, str]:
    """One student's damaged result is no reason to give nobody a grade."""
    if not file.exists():
        return None, ""
    try:
        return result_file.read(file), ""
    except UsageError as e:
        return None, str(e)


def _text(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    return value if isinstance(value, str) else ""


def _texts(data: dict[str, Any], name: str) -> dict[str, str]:
    value = data.get(name)
    return {str(k): str(v) for k, v in value.items() if v} if isinstance(value, dict) else {}
