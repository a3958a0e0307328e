"""The hint ladders: which rung of each a student has seen."""

from __future__ import annotations

import json
from pathlib import Path

from grader.course.catalog import Task
from grader.errors import UsageError
from grader.files import write_atomically


class Seen:
    """How many rungs of each ladder have been shown, kept in a file that may hold anything."""

    def __init__(self, file: Path):
        self.file = file
        try:
            seen = json.loads(file.read_text())
        except (OSError, ValueError, RecursionError):
            seen = {}
        self._rungs = (
            {k: v for k, v in seen.items() if type(v) is int and v >= 0}
            if isinstance(seen, dict)
            else {}
        )

    def next_rung(self, task: Task) -> int:
        """The index of the hint that comes next; the last one stays."""
        return min(self._rungs.get(task.id, 0), len(task.hints) - 1)

    def remember(self, task: Task, rung: int) -> None:
        self._rungs[task.id] = rung + 1
        try:
            self.file.parent.mkdir(exist_ok=True)
            write_atomically(self.file, json.dumps(self._rungs))
        except OSError as e:
            raise UsageError(
                f"the next call begins at this hint again: can't write {self.file} ({e.strerror})"
            ) from e
