"""Looks for lines of solutions in a hand-out.

A line counts if it is between the markers of a solution, is too distinctive to be a coincidence,
and isn't part of what students get anyway: starters, training scripts, templates, hints.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from grader.course import derive
from grader.course.catalog import Exercise
from grader.course.release.contents import Content
from grader.errors import UsageError

GIVEN = re.compile(r"grader/(given|workload)/|templates/.*\.(py|sbatch)$")
SHOWN = Path(__file__).with_name("shown.txt")
LEAST_LENGTH, LEAST_WORDS = 20, 3


@dataclass(frozen=True)
class Leak:
    where: str  # "README.md:12"
    line: str
    solution: str  # "ex01-basic-checkpoint/solution/checkpoint.py:47"

    def __str__(self) -> str:
        return f"{self.where}: `{self.line}` is in {self.solution}"


def normal(line: str) -> str:
    return " ".join(line.split())


def searched(line: str) -> str:
    """What is searched for: the code without the comment behind it, if it says enough alone."""
    code = normal(line.rpartition("  # ")[0])
    return code if distinctive(code) else normal(line)


def distinctive(line: str) -> bool:
    return len(line) >= LEAST_LENGTH and len(re.findall(r"[A-Za-z_]\w+", line)) >= LEAST_WORDS


def solution_lines(exercises: Iterable[Exercise]) -> dict[str, str]:
    """Distinctive line -> where it stands, for what students are to write.

    UsageError without solutions: then nobody can tell whether a hand-out holds them.
    """
    found: dict[str, str] = {}
    for exercise in exercises:
        if not exercise.solution.is_dir():
            raise UsageError(
                f"this checkout has no solution of {exercise.id}, so nothing can be searched for "
                "its lines; release from a whole checkout"
            )
        for path in sorted(exercise.solution.iterdir()):
            if path.suffix not in derive.DERIVED:
                continue
            inside = False
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                mark = line.strip()
                if mark in (derive.BEGIN, derive.END):
                    inside = mark == derive.BEGIN
                elif inside and distinctive(searched(line)):
                    where = f"{path.relative_to(exercise.folder.parent)}:{number}"
                    found.setdefault(searched(line), where)
    return found


def secret_lines(
    exercises: list[Exercise], contents: Mapping[str, Content], hints: bool = True
) -> dict[str, str]:
    """Those of the solutions' lines that nothing in the hand-out may hold."""
    given = [c.data.decode(errors="replace") for n, c in contents.items() if GIVEN.match(n)]
    for exercise in exercises:
        given += [data.decode(errors="replace") for data in derive.starter_files(exercise).values()]
        if hints:
            given += [hint for task in exercise.tasks for hint in task.hints]
    known = "\n".join(normal(line) for text in given for line in text.splitlines())
    secret = {k: v for k, v in solution_lines(exercises).items() if k not in known}
    shown = shown_lines()
    return {line: where for line, where in secret.items() if line not in shown}


def shown_lines() -> set[str]:
    lines = SHOWN.read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("# ")}


def find(contents: Mapping[str, Content], secret: Mapping[str, str]) -> list[Leak]:
    """Every place in the files that holds a secret line, whatever stands before or after it."""
    return [leak for name, content in contents.items() for leak in _in_file(name, content, secret)]


def _in_file(name: str, content: Content, secret: Mapping[str, str]) -> Iterator[Leak]:
    if content.data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content.data)) as inner:
            for file in inner.namelist():
                yield from _in_file(f"{name}/{file}", Content(inner.read(file)), secret)
        return
    source = _lines(content.source or b"")
    for number, line in enumerate(_lines(content.data), 1):
        for one, where in secret.items():
            if one in line:
                at = source.index(line) + 1 if line in source else number
                yield Leak(f"{name}:{at}", one, where)


def _lines(data: bytes) -> list[str]:
    """A file's lines, normalized. Notebooks keep a cell's lines as JSON strings."""
    lines = data.decode(errors="replace").splitlines()
    return [normal(line.replace('\\"', '"')) for line in lines]
