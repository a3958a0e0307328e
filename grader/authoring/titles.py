"""One title for each exercise and task, from exercise.toml, wherever it appears."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from grader.course.catalog import Exercise, Task

# "# ------- ex01.3  an interrupted save costs nothing", in a solution, its checks and its drivers
SECTION = re.compile(r"^# -+ (?:ex0)?(\d\.\d)  (.+?)(?: -+)?$", re.M)
SCRIPT = re.compile(r"^# Task (\d\.\d): (.*)$", re.M)


def problems(root: Path, exercises: list[Exercise]) -> Iterator[str]:
    for exercise in exercises:
        for path, wanted, found in (*_of_exercise(root, exercise), *_of_tasks(root, exercise)):
            if found != wanted:
                yield (
                    f"{path.relative_to(root)}: the title reads {found!r}; make it {wanted!r}, as "
                    "exercise.toml has it"
                )


def _of_exercise(root: Path, exercise: Exercise) -> Iterator[tuple[Path, str, str]]:
    """(file, wanted, found) for every place that names the exercise."""
    number = int(exercise.id.removeprefix("ex"))
    title = f"Exercise {number}: {exercise.title}"
    lab = f"# Lab {number}: {exercise.title}"
    readme = exercise.folder / "README.md"
    yield readme, f"# {title}", _first(r"^# .*", readme.read_text())
    source = exercise.folder / "notebook.py"
    yield source, f"# {lab}", _first(r"^# # .*", source.read_text())
    notebook = exercise.folder / "notebook.ipynb"
    yield notebook, lab, _first(r"^# .*", _markdown(notebook))
    for path in (
        exercise.solution / exercise.module,
        root / "grader" / "checks" / exercise.id / f"test_{exercise.id}.py",
    ):
        yield path, f"{title}.", _first(r'(?<=^""").*?(?=(?:""")?$)', path.read_text())
    folder = exercise.folder.name
    row = _first(rf"^\| \[{re.escape(folder)}\].*", (root / "README.md").read_text())
    yield root / "README.md", exercise.title, row.split(" | ")[1] if row else ""
    table = root / "grader" / "mutants" / "README.md"
    entry = f"- [{exercise.id}]({exercise.id}/README.md): "
    yield table, exercise.title, _first(rf"(?<=^{re.escape(entry)}).*", table.read_text())


def _of_tasks(root: Path, exercise: Exercise) -> Iterator[tuple[Path, str, str]]:
    tasks = {_number(task): task for task in exercise.tasks}
    readme = exercise.folder / "README.md"
    text = readme.read_text()
    for number, task in tasks.items():
        yield readme, _heading(task), _first(rf"^### {re.escape(number)} .*", text)
    for path in sorted(
        [
            *exercise.solution.glob("*"),
            *(root / "grader" / "checks" / exercise.id).glob("*.py"),
            *(root / "grader" / "workload" / exercise.id).glob("*.py"),
        ]
    ):
        text = path.read_text()
        for number, found in SECTION.findall(text):
            yield path, _title(tasks.get(number)), found
        for number, found in SCRIPT.findall(text):
            title = _title(tasks.get(number))
            yield path, title, found[: len(title)]


def _title(task: Task | None) -> str:
    return task.title if task else "one of a task that exists"


def _heading(task: Task) -> str:
    """### 1.4 Resume in the middle of an epoch (5 points; builds on 1.2 and 1.3)"""
    needs = [need.removeprefix("ex0") for need in task.needs]
    if len(needs) == 2:
        needs = [" and ".join(needs)]
    builds = f"; builds on {', '.join(needs)}" if needs else ""
    title = task.title[0].upper() + task.title[1:]
    return f"### {_number(task)} {title} ({task.points} points{builds})"


def _number(task: Task) -> str:
    """ "ex01.4" -> "1.4" """
    return task.id.removeprefix("ex0")


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.M)
    return found[0] if found else ""


def _markdown(notebook: Path) -> str:
    cells = json.loads(notebook.read_text())["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
