"""The sample messages in the documentation are cut from the snapshots of messages.

    <!-- sample: ex01/in-place.txt lines 1-6, last -->
    ```
    lines 1 to 6 and the replay command of grader/tests/snapshots/ex01/in-place.txt, as a
    terminal shows them
    ```

A sample that begins at line 1 gets the message's heading, too.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from grader import mutants
from grader.course import catalog
from grader.course.catalog import Exercise, Task
from grader.report import terminal
from grader.report.message import LABEL
from grader.verdicts import FAIL, TaskResult

MARKER = re.compile(r"<!-- sample: (ex\d\d)/([\w-]+)\.txt lines (\d[\w, -]*) -->")
WIDTH = terminal.MAX_WIDTH - 3  # of a row without its indent


@dataclass
class Block:
    """A fenced block of a page without a language: what a program printed."""

    first: int  # index of its first line
    lines: list[str]
    marker: re.Match | None


def pages(root: Path) -> list[Path]:
    docs = [root / "docs" / name for name in ("grading.md", "debugging.md")]
    return [root / "README.md", *sorted(root.glob("ex*/README.md")), *docs]


def problems(root: Path, exercises: list[Exercise]) -> Iterator[str]:
    tasks = _tasks(exercises)
    for page in pages(root):
        for block in blocks(page.read_text()):
            where = f"{page.relative_to(root)}: the sample in line {block.first + 1}"
            if not block.marker:
                yield (
                    f"{where} names no snapshot; put <!-- sample: ex01/NAME.txt lines 1-9 "
                    "--> on the line before it"
                )
                continue
            try:
                wanted = cut(root, block.marker, tasks)
            except ValueError as e:
                yield f"{where} can't be cut: {e}; name lines that the snapshot has"
                continue
            if block.lines != wanted:
                yield f"{where} isn't its snapshot; write it: grade dev derive"


def write(root: Path) -> list[Path]:
    """Cut every sample; the pages that changed. ValueError for a marker that leads nowhere."""
    tasks = _tasks(list(catalog.exercises(root).values()))
    changed = []
    for page in pages(root):
        text = page.read_text()
        lines = text.splitlines()
        for block in reversed(blocks(text)):
            if block.marker:
                end = block.first + len(block.lines)
                lines[block.first : end] = cut(root, block.marker, tasks)
        new = "\n".join(lines) + "\n"
        if new != text:
            page.write_text(new)
            changed.append(page)
    return changed


def blocks(text: str) -> list[Block]:
    found, lines = [], text.splitlines()
    opened: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = number
            continue
        if lines[opened] == "```":
            marker = MARKER.fullmatch(lines[opened - 1]) if opened else None
            found.append(Block(opened + 1, lines[opened + 1 : number], marker))
        opened = None
    return found


def cut(root: Path, marker: re.Match, tasks: dict[tuple[str, str], Task]) -> list[str]:
    """The lines that a marker asks for, of a snapshot's message: its code is in the heading.

    ValueError if there is no such snapshot, or line.
    """
    exercise_id, name, wanted = marker.groups()
    path = root / "grader" / "tests" / "snapshots" / exercise_id / f"{name}.txt"
    if not path.exists() or (exercise_id, name) not in tasks:
        raise ValueError(f"there is no snapshot {exercise_id}/{name}.txt")
    # mutants lie in the solution's folder; a student's replay command names none
    code, *lines = path.read_text().replace(" --solution", "").splitlines()
    replays = [n for n, line in enumerate(lines, 1) if line.startswith("replay")]
    numbers = _numbers(wanted, (replays or [len(lines)])[-1])
    if out := [n for n in numbers if not 1 <= n <= len(lines)]:
        raise ValueError(f"{exercise_id}/{name}.txt has no line {out[0]}")
    task = tasks[exercise_id, name]
    heading = [_heading(task, code.split()[1])] if numbers[0] == 1 else []
    return [*heading, *(shown for n in numbers for shown in _as_shown(lines[n - 1]))]


def _numbers(text: str, last: int) -> list[int]:
    """'1-3, last' -> [1, 2, 3, 9], if `last` is 9."""
    found: list[int] = []
    for part in text.replace("last", str(last)).split(","):
        first, _, end = part.partition("-")
        found += range(int(first), int(end or first) + 1)
    return found


def _tasks(exercises: list[Exercise]) -> dict[tuple[str, str], Task]:
    """(exercise's id, mutant's name) -> the task that catches it, whose message is shown."""
    return {
        (exercise.id, mutant.name): task
        for exercise in exercises
        for mutant in mutants.load(exercise)
        for task in exercise.tasks
        if task.id == mutant.task
    }


def _heading(task: Task, code: str) -> str:
    text = io.StringIO()
    out = Console(file=text, width=terminal.MAX_WIDTH, color_system=None)
    terminal.show_task(
        out, TaskResult(task.id, task.title, FAIL, 0, task.points, 0.0, "", {"code": code})
    )
    return text.getvalue().rstrip("\n")


def _as_shown(line: str) -> list[str]:
    """A row of a message as a terminal wraps it; a command stays on one line, to be copied."""
    if line.startswith(("replay", "debug")):
        return [f"  {line}"]
    hanging = " " * LABEL
    wrapped = textwrap.wrap(line, WIDTH, break_on_hyphens=False, subsequent_indent=hanging)
    return [f"  {part}" for part in wrapped]
