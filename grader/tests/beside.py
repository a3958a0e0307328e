"""Gradings that tests will ask for, begun with the session, in processes of their own beside it.

A grading waits a good part of its time: for a process to be killed, for a deadlock to be told, for
a cluster. A test's module names what it will ask for: `ahead(test's name, its parameters)` -> the
arguments of grades, or lists of them.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.util import Finalize

from grader import engine
from grader.course import catalog, submissions
from grader.harness import launcher as launchers
from grader.processes import die_with_parent

AT_ONCE = 2  # gradings beside the tests
# tests that wait most of their time come first, while the others' gradings need the cores; who asks
# for those, later; and Slurm itself is looked at when nothing else runs
ORDER = (
    ("test_cluster_runs", "test_notebooks", "test_ranks", "test_templates_sbatch", "test_hostile"),
    (),  # all others
    ("test_mutants", "test_solutions"),
    ("test_slurm",),
)

_launcher = None


def in_order(items: list) -> None:
    def place(item) -> int:
        name = item.module.__name__.rpartition(".")[2]
        return next((n for n, names in enumerate(ORDER) if name.startswith(names)), ORDER.index(()))

    items.sort(key=place)


def wanted(items: list) -> list[tuple]:
    """What the tests will ask for, in their order."""
    found = [
        item.module.ahead(item.originalname, item.callspec.params)
        for item in items
        if hasattr(item.module, "ahead") and hasattr(item, "callspec")
    ]
    return [
        call for calls in found if calls for call in (calls if isinstance(calls, list) else [calls])
    ]


class Grades:
    """engine.grade, for the tests."""

    def __init__(self, launcher, ahead: list[tuple]):
        self.launcher, self.begun = launcher, {}
        # not in threads: a test that replaces a function would replace it for them, too
        self.pool = (
            ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context("spawn"), _begin)
            if len(ahead) > 1
            else None
        )
        for exercise, work, options in ahead if self.pool else ():
            key = self._key(exercise, work, options)
            if key not in self.begun:
                self.begun[key] = self.pool.submit(_grade, exercise.id, work, options)

    @staticmethod
    def _key(exercise, work, options: dict) -> tuple:
        return exercise.id, work.key, repr(sorted(options.items()))

    def __call__(self, exercise, work, **options):
        begun: Future | None = self.begun.get(self._key(exercise, work, options))
        return begun.result() if begun else engine.grade(exercise, work, self.launcher, **options)

    def close(self) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)


def _begin() -> None:
    global _launcher
    die_with_parent()
    _launcher = launchers.choose()
    Finalize(None, _launcher.close, exitpriority=10)


def _grade(exercise_id: str, work: submissions.Submission, options: dict):
    return engine.grade(catalog.find(exercise_id), work, _launcher, **options)
