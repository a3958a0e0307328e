"""Builds the exercises' notebooks from their sources.

A notebook has one source, notebook.py in jupytext's percent format; notebook.ipynb is built from it
and executed against the reference solution, so that the outputs in the repository are what students
work towards.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from grader.course import catalog, submissions
from grader.course.catalog import Exercise
from grader.errors import UsageError
from grader.files import write_atomically

CELL_TIMEOUT = 120  # s; the slowest cell takes about 5


def source_path(exercise: Exercise) -> Path:
    return exercise.folder / "notebook.py"


def notebook_path(exercise: Exercise) -> Path:
    return exercise.folder / "notebook.ipynb"


def cells(exercise: Exercise) -> list:
    """The cells of the exercise's source, as nbformat has them. UsageError if there are none.

    Text before the first marker is for readers of the source: no cell.
    """
    jupytext, _, _ = _tools()
    path = source_path(exercise)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{exercise.id} has no notebook: {_short(path)} is missing") from None
    first = re.search(r"^# %%", text, re.M)
    if not first:
        raise UsageError(f"{_short(path)} has no cells; the first would begin with '# %%'")
    found = jupytext.reads(text[first.start() :], "py:percent").cells
    for cell in found:
        cell.metadata.pop("lines_to_next_cell", None)  # how the source is laid out
    return found


def check_source(exercise: Exercise) -> None:
    """UsageError, naming the cell, if the built notebook isn't its source's."""
    path = notebook_path(exercise)
    again = f"build it again: grade dev notebook {exercise.id}"
    try:
        built = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except FileNotFoundError:
        raise UsageError(f"{_short(path)} is missing; {again}") from None
    have = [(c["cell_type"], "".join(c["source"]), c["metadata"]) for c in built]
    want = [(c.cell_type, c.source, dict(c.metadata)) for c in cells(exercise)]
    for number, (a, b) in enumerate(zip(have, want, strict=False), 1):
        if a != b:
            raise UsageError(
                f"{_short(path)}: cell {number} isn't what {source_path(exercise).name} says; "
                f"{again}"
            )
    if len(have) != len(want):
        raise UsageError(f"{_short(path)} has {len(have)} cells, its source {len(want)}; {again}")


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def new(exercise: Exercise):
    """The exercise's notebook, not executed yet; the same source gives the same notebook."""
    _, _, nbformat = _tools()
    notebook = nbformat.v4.new_notebook(cells=cells(exercise))
    for number, cell in enumerate(notebook.cells):
        name = hashlib.sha256(f"{number} {cell.source}".encode()).hexdigest()[:8]
        cell.id = f"{number:02}-{name}"
    _neutral(notebook)
    return notebook


def execute(exercise: Exercise, submission: str | Path):
    """The exercise's notebook, executed in the exercise's folder with
    GRADE_SUBMISSION=`submission`.
    """
    _, nbclient, _ = _tools()
    notebook = new(exercise)
    client = nbclient.NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        startup_timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(exercise.folder)}},
    )
    try:
        client.execute(env={**os.environ, "GRADE_SUBMISSION": str(submission)})
    except nbclient.exceptions.CellExecutionError as e:
        raise UsageError(
            f"{_short(source_path(exercise))}: cell {_failed(notebook)} failed: {e.ename}: "
            f"{e.evalue}"
        ) from e
    except nbclient.exceptions.CellTimeoutError:
        raise UsageError(
            f"{_short(source_path(exercise))}: a cell took more than {CELL_TIMEOUT} s"
        ) from None
    except nbclient.exceptions.DeadKernelError:
        raise UsageError(f"{_short(source_path(exercise))}: the kernel died") from None
    _neutral(notebook)
    return notebook


def build(exercise: Exercise) -> Path:
    """Make the exercise's notebook.ipynb from its source, executed with the reference solution."""
    submissions.submission(exercise, None, solution=True)  # fails early, and says so, without one
    _, _, nbformat = _tools()
    path = notebook_path(exercise)
    text = nbformat.writes(execute(exercise, "solution"), version=4)
    write_atomically(path, text.rstrip("\n") + "\n")
    digest_path(exercise).parent.mkdir(parents=True, exist_ok=True)
    digest_path(exercise).write_text(_digest(path) + "\n")
    return path


def digest_path(exercise: Exercise) -> Path:
    return catalog.ROOT / "grader" / "tests" / "snapshots" / exercise.id / "notebook.sha256"


def is_pristine(exercise: Exercise) -> bool:
    """Is notebook.ipynb as it was built? A student who has run it, or changed it, has made it their
    own.
    """
    path, built = notebook_path(exercise), digest_path(exercise)
    return path.exists() and built.exists() and built.read_text().strip() == _digest(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _neutral(notebook) -> None:
    """Remove what says when and on which machine it was executed."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def _failed(notebook) -> int | str:
    for number, cell in enumerate(notebook.cells, 1):
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            return number
    return "?"


def _tools() -> tuple:
    """jupytext, nbclient and nbformat; UsageError if one isn't installed."""
    try:
        import jupytext
        import nbclient
        import nbformat
    except ImportError as e:
        raise UsageError(
            f"{e.name} isn't installed, which notebooks are built with: pip install -e '.[dev]'"
        ) from e
    return jupytext, nbclient, nbformat
