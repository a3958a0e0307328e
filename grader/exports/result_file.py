"""Reads what `grade --json` wrote (schema grade/v1)."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grader.errors import UsageError
from grader.verdicts import BLOCKED, FAIL, INCONCLUSIVE, PASS

SCHEMA = "grade/v1"
VERDICTS = (PASS, FAIL, BLOCKED, INCONCLUSIVE)


@dataclass(frozen=True)
class Task:
    id: str  # "ex01.3"
    title: str
    verdict: str
    score: int
    max_score: int
    message: str = ""
    code: str = ""  # of the finding: "state-lost"


@dataclass(frozen=True)
class Exercise:
    id: str
    score: int
    max_score: int
    tasks: tuple[Task, ...]
    seed: int | None = None
    sandbox: str = ""

    @property
    def inconclusive(self) -> list[str]:
        """The tasks of which nothing was proved."""
        return [task.id for task in self.tasks if task.verdict == INCONCLUSIVE]


@dataclass(frozen=True)
class Result:
    exercises: tuple[Exercise, ...]
    seconds: float = 0.0

    @property
    def score(self) -> int:
        return sum(exercise.score for exercise in self.exercises)

    @property
    def max_score(self) -> int:
        return sum(exercise.max_score for exercise in self.exercises)

    @property
    def tasks(self) -> list[Task]:
        return [task for exercise in self.exercises for task in exercise.tasks]

    @property
    def inconclusive(self) -> list[str]:
        return [task for exercise in self.exercises for task in exercise.inconclusive]


@dataclass
class _Fields:
    """The fields of one JSON object; a wrong one is a UsageError that says where."""

    of: Any
    where: str
    file: str = field(default="")

    def __post_init__(self) -> None:
        if not isinstance(self.of, dict):
            raise UsageError(f"{self.file}: {self.where} isn't an object")

    def get(self, name: str, kind: type | tuple[type, ...]) -> Any:
        value = self.of.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UsageError(f"{self.file}: {self.where} has no proper '{name}'")
        return value

    def items(self, name: str, what: str) -> list[_Fields]:
        return [
            _Fields(item, f"{what} {number}", self.file)
            for number, item in enumerate(self.get(name, list), 1)
        ]


def load(path: Path, schema: str) -> Any:
    """The JSON of a file of this schema; `-` is standard input."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        data = json.loads(text)
    except OSError as e:
        raise UsageError(f"can't read {path}: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{path} isn't JSON: {e}") from e
    found = data.get("schema") if isinstance(data, dict) else None
    if found != schema:
        raise UsageError(f"{path}: the schema is {found!r}, and should be {schema!r}")
    return data


def read(path: Path) -> Result:
    """The result in the file. UsageError, in one line, if it isn't one."""
    whole = _Fields(load(path, SCHEMA), "the result", str(path))
    exercises = tuple(_exercise(each) for each in whole.items("exercises", "exercise"))
    if not exercises:
        raise UsageError(f"{path}: it holds no exercise")
    return Result(exercises, float(whole.of.get("seconds") or 0.0))


def _exercise(fields: _Fields) -> Exercise:
    tasks = tuple(_task(each) for each in fields.items("tasks", f"{fields.where}, task"))
    seed, sandbox = fields.of.get("seed"), fields.of.get("sandbox")
    return Exercise(
        fields.get("id", str),
        sum(task.score for task in tasks),
        fields.get("max_score", int),
        tasks,
        seed if isinstance(seed, int) else None,
        sandbox if isinstance(sandbox, str) else "",
    )


def _task(fields: _Fields) -> Task:
    verdict = fields.get("verdict", str)
    if verdict not in VERDICTS:
        raise UsageError(f"{fields.file}: {fields.where} has the unknown verdict '{verdict}'")
    evidence = fields.of.get("evidence")
    code = evidence.get("code") if isinstance(evidence, dict) else ""
    return Task(
        fields.get("id", str),
        fields.get("title", str),
        verdict,
        fields.get("score", int),
        fields.get("max_score", int),
        str(fields.of.get("message") or ""),
        code if isinstance(code, str) else "",
    )
