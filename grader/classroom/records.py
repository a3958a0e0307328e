"""The results folder of a class: which file holds what, written so that a crash loses nothing.

class.json                       the seed, the exercises, the course's version
students/ID/submission.json      who it is, what was handed in, what couldn't be read
students/ID/submission/ex01/     the files that were graded
students/ID/graded/ex01.json     what came out, with the digest of those files
students/ID/result.json          all exercises, as `grade --json` writes them
students/ID/report.html          the same as a page for the student
students/ID/log.txt, logs/       the messages, and what failing checks' processes printed
results.csv, index.html          all students
instructor.log                   what submissions reached for, and what was left out of archives
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from grader.classroom.contents import Contents, digest
from grader.classroom.handed_in import HandedIn
from grader.course.catalog import ROOT, Exercise
from grader.course.submissions import Submission, snapshot
from grader.errors import UsageError
from grader.files import write_atomically
from grader.verdicts import Attempt, ExerciseResult, TaskResult

SCHEMA = "grade-class/v1"


@cache
def course_version() -> str:
    """A digest of what decides verdicts: the grader's code and texts, and the exercises' data."""
    total = sha256()
    files = [*ROOT.glob("grader/**/*.py"), *ROOT.glob("grader/**/*.toml")]
    files += ROOT.glob("ex*/exercise.toml")
    skipped = ("tests", "mutants", "authoring", "bench", "classroom", "exports")
    for path in sorted(files):
        name = path.relative_to(ROOT).as_posix()
        if name.split("/")[1] not in skipped and "handed_out" not in name:
            total.update(f"{name} ".encode() + path.read_bytes())
    return total.hexdigest()[:16]


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file; None if there is no such file, or nothing whole in it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def write_json(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(data, indent=1) + "\n")


@dataclass(frozen=True)
class Settings:
    """The settings that are the same for a whole class."""

    seed: int
    exercises: tuple[str, ...]
    course: str

    @classmethod
    def of(cls, folder: Path) -> Settings | None:
        data = read_json(folder / "class.json")
        if data is None:
            return None
        try:
            return cls(int(data["seed"]), tuple(data["exercises"]), str(data["course"]))
        except (KeyError, TypeError, ValueError) as e:
            raise UsageError(f"{folder / 'class.json'} isn't a class's file: {e!r}") from e

    def write(self, folder: Path) -> None:
        write_json(folder / "class.json", {"schema": SCHEMA, **asdict(self)})


@dataclass
class Graded:
    """One exercise of one student, as it was graded."""

    key: str
    result: ExerciseResult

    @classmethod
    def read(cls, path: Path) -> Graded | None:
        data = read_json(path)
        if data is None:
            return None
        try:
            result = data["result"]
            result["tasks"] = [TaskResult(**task) for task in result["tasks"]]
            result["attempts"] = [Attempt(**attempt) for attempt in result["attempts"]]
            return cls(str(data["key"]), ExerciseResult(**result))
        except (KeyError, TypeError):
            return None  # an older version wrote it

    def write(self, path: Path) -> None:
        write_json(path, {"schema": SCHEMA, "key": self.key, "result": asdict(self.result)})


@dataclass
class Student:
    """One student's folder among the results."""

    folder: Path
    data: dict[str, Any] = field(default_factory=dict)  # submission.json

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def name(self) -> str:
        return str(self.data.get("name") or self.id)

    @property
    def email(self) -> str:
        return str(self.data.get("email") or "")

    @property
    def problem(self) -> str:
        """Why nothing of it can be graded."""
        return str(self.data.get("problem") or "")

    @property
    def problems(self) -> dict[str, str]:
        """Exercise -> why it can't be graded."""
        return dict(self.data.get("problems") or {})

    @property
    def digests(self) -> dict[str, str]:
        """Exercise -> the digest of its files."""
        return dict(self.data.get("exercises") or {})

    @property
    def notes(self) -> list[str]:
        return list(self.data.get("notes") or [])

    def files(self, exercise: str) -> Path:
        return self.folder / "submission" / exercise

    def submission(self, exercise: Exercise) -> Submission:
        """What is graded. Messages name it by its path in the student's own course."""
        shown = f"{exercise.folder.name}/{exercise.starter.name}"
        return Submission(self.files(exercise.id), exercise.module, shown=shown)

    def key(self, exercise: str, settings: Settings) -> str:
        """What a result depends on: equal keys give equal verdicts."""
        text = f"{exercise} {self.digests[exercise]} {settings.seed} {settings.course}"
        return sha256(text.encode()).hexdigest()

    def record(self, exercise: str) -> Path:
        return self.folder / "graded" / f"{exercise}.json"

    def graded(self, exercise: str, settings: Settings) -> Graded | None:
        """The result for these files; None if they aren't graded yet."""
        if exercise not in self.digests:
            return None
        found = Graded.read(self.record(exercise))
        return found if found and found.key == self.key(exercise, settings) else None


@dataclass(frozen=True)
class Results:
    """A class's results folder."""

    folder: Path

    @property
    def students(self) -> list[Student]:
        """Those of whom something was handed in, by id."""
        return list(self._students())

    def _students(self) -> Iterator[Student]:
        for file in sorted(self.folder.glob("students/*/submission.json")):
            if (data := read_json(file)) is not None:
                yield Student(file.parent, data)

    def student(self, id: str) -> Student:
        folder = self.folder / "students" / id
        return Student(folder, read_json(folder / "submission.json") or {})

    def take(self, one: HandedIn, contents: Contents, exercises: list[Exercise]) -> Student:
        """Copy what was handed in to the results, and say who it is from."""
        student = self.student(one.id)
        new = {e.id: contents.digest(e.id) for e in exercises if e.id in contents.files}
        for exercise, wanted in new.items():
            # a crash may have come between the files and submission.json
            if not _holds(student.files(exercise), wanted):
                _replace(student.files(exercise), contents.files[exercise])
        # what an earlier call took and this one doesn't hold stays: it's graded
        digests = student.digests | new
        problem = one.problem
        if not problem and not digests and not contents.problems:
            names = ", ".join(e.module for e in exercises)
            problem = f"no exercise's file was found (looked for {names})"
        student.data = {
            "schema": SCHEMA,
            "student": one.id,
            "name": one.name,
            "email": one.email or None,
            "system": one.system,
            "ids": one.ids,
            "submitted": one.submitted.isoformat() if one.submitted else None,
            "late": one.late,
            "source": one.source,
            "exercises": digests,
            "digest": sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest(),
            "status": "unreadable" if problem else "handed in",
            "problem": problem or None,
            "problems": contents.problems,
            "notes": contents.notes,
        }
        write_json(student.folder / "submission.json", student.data)
        return student


def _holds(folder: Path, wanted: str) -> bool:
    return folder.is_dir() and digest(snapshot(folder)) == wanted


def _replace(folder: Path, files: dict[str, bytes]) -> None:
    """Make the folder hold these files and nothing else."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
