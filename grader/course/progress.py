"""Each task's last verdict: which passed, when and with which seed, kept in a file that may hold
anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grader.course import catalog
from grader.course.catalog import ROOT, Exercise, Task
from grader.course.submissions import Submission
from grader.files import write_atomically
from grader.verdicts import BLOCKED, FAIL, PASS, TaskResult

# submissions besides the starters, those graded last: an instructor may grade a whole class here
KEPT = 100


@dataclass(frozen=True)
class Last:
    """A task's last verdict that proved something."""

    verdict: str
    code: str  # of the first finding; empty for a pass
    when: float  # s since 1970
    seed: int
    files: str  # digest of the submission's files
    passed: float | None  # when it last passed, possibly with other files
    passed_seed: int | None

    def __post_init__(self) -> None:
        right = (
            self.verdict in (PASS, FAIL, BLOCKED)
            and isinstance(self.code, str)
            and isinstance(self.files, str)
            and all(type(n) in (int, float) for n in (self.when, self.seed))
            and all(n is None or type(n) in (int, float) for n in (self.passed, self.passed_seed))
        )
        if not right:
            raise ValueError(self)

    def says(self, files: str, now: float | None = None) -> str:
        """ "passed 12 minutes ago", "failed 2 hours ago: state-lost; your files changed since"."""
        word = {PASS: "passed", FAIL: "failed", BLOCKED: "blocked"}[self.verdict]
        text = f"{word} {ago(self.when, now)}" + (f": {self.code}" if self.code else "")
        if self.verdict != PASS and self.passed is not None:
            text += f"; last passed {ago(self.passed, now)}"
        return text + ("; your files changed since" if files != self.files else "")


class Progress:
    """The file .grade/progress.json. Two gradings that end at the same moment may lose a verdict;
    the next grading writes it again.
    """

    def __init__(self, file: Path):
        self.file = file

    def of(self, folder: Path) -> dict[str, Last]:
        """Task id -> its last verdict, for the submission in `folder`."""
        return self._read().get(_name(folder), {})

    def remember(self, work: Submission, result: TaskResult, seed: int) -> None:
        """An inconclusive verdict proves nothing, so it changes nothing."""
        if result.verdict not in (PASS, FAIL, BLOCKED):
            return
        known, name, now = self._read(), _name(work.folder), time.time()
        tasks = known.pop(name, {})  # the newest submission goes last
        before = tasks.get(result.id)
        passed, seed_then = (before.passed, before.passed_seed) if before else (None, None)
        if result.verdict == PASS:
            passed, seed_then = now, seed
        code = str(result.evidence.get("code") or "")
        tasks[result.id] = Last(result.verdict, code, now, seed, digest(work), passed, seed_then)
        known[name] = tasks
        for old in [each for each in known if os.path.isabs(each)][:-KEPT]:
            del known[old]
        text = json.dumps(
            {
                each: {task: asdict(last) for task, last in them.items()}
                for each, them in known.items()
            },
            indent=1,
        )
        with contextlib.suppress(OSError):  # a grading is worth more than its memory
            self.file.parent.mkdir(exist_ok=True)
            write_atomically(self.file, text)

    def first_not_passed(self, exercise: Exercise, folder: Path) -> Task | None:
        """The task to work on; None if all are passed."""
        known = self.of(folder)
        return next(
            (t for t in exercise.tasks if t.id not in known or known[t.id].verdict != PASS), None
        )

    def what_next(self, exercise: Exercise) -> str:
        """Which exercise comes after this one, of those whose starters aren't passed yet."""
        following = catalog.after(exercise)
        while following and self.first_not_passed(following, following.starter) is None:
            following = catalog.after(following)
        if following is None:
            return "No later exercise is left to do."
        return f"Next: {following.id}, {following.title} ({following.folder.name}/README.md)"

    def last_worked_on(self, exercises: Iterable[Exercise]) -> Exercise:
        """The one whose starter was graded last; the first one if none was."""
        return max(
            exercises,
            key=lambda e: max((last.when for last in self.of(e.starter).values()), default=0),
        )

    def _read(self) -> dict[str, dict[str, Last]]:
        try:
            found = json.loads(self.file.read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {name: _tasks(tasks) for name, tasks in found.items() if isinstance(tasks, dict)}


def _tasks(found: dict[str, Any]) -> dict[str, Last]:
    tasks = {}
    for task, fields in found.items():
        with contextlib.suppress(TypeError, ValueError):  # another version's, or damaged
            tasks[task] = Last(**fields)
    return tasks


def _name(folder: Path) -> str:
    """A folder of the course keeps its name when the course is moved."""
    path = os.path.abspath(folder)
    return os.path.relpath(path, ROOT) if path.startswith(f"{ROOT}{os.sep}") else path


def digest(work: Submission) -> str:
    said = hashlib.sha256()
    for name, data in work.files.items():
        said.update(f"{name}\0{len(data)}\0".encode(errors="surrogateescape") + data)
    return said.hexdigest()[:16]


def ago(when: float, now: float | None = None) -> str:
    seconds = (time.time() if now is None else now) - when
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if number := int(seconds // length) if seconds >= length else 0:
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"
