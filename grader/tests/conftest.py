"""The grader's own tests: one warm fork server for all, and what a checkout may lack is said aloud."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from grader import course, engine
from grader.harness import launcher as launchers
from grader.harness import scratch

IN_CI = bool(os.environ.get("GRADE_CI"))


AHEAD = pytest.StashKey[list]()
AT_ONCE = 3  # gradings beside the tests


def pytest_collection_modifyitems(config, items):
    wanted = [(item.module.ahead, item.originalname, item.callspec.params) for item in items if hasattr(item.module, "ahead") and hasattr(item, "callspec")]
    config.stash[AHEAD] = [call for ahead, name, params in wanted if (call := ahead(name, params))]
    lacking = [e.id for e in course.exercises().values() if not e.solution.is_dir()]
    if not lacking or IN_CI:
        return
    skip = pytest.mark.skip(reason=f"this checkout has no solution of {', '.join(lacking)}")
    for item in items:
        if item.get_closest_marker("needs_solution"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def launcher():
    """The fork server where there is one: every grading in the tests shares it."""
    chosen = launchers.choose()
    yield chosen
    chosen.close()


class Grades:
    """engine.grade, for the tests. A grading waits a good part of its time: for a process to be killed, for a deadlock to
    be told, for a cluster. So those that are known (a test module's `ahead` names them) are begun with the session, a
    few at a time, beside the other tests."""

    def __init__(self, launcher, ahead: list):
        self.launcher, self.begun = launcher, {}
        self.pool = ThreadPoolExecutor(AT_ONCE) if ahead else None
        for exercise, work, options in ahead:
            key = self._key(exercise, work, options)
            if key not in self.begun:
                self.begun[key] = self.pool.submit(self._grade, exercise, work, options)

    @staticmethod
    def _key(exercise, work, options: dict) -> tuple:
        return exercise.id, work.key, repr(sorted(options.items()))

    def _grade(self, exercise, work, options: dict):
        return engine.grade(exercise, work, self.launcher, **options)

    def __call__(self, exercise, work, **options):
        begun: Future | None = self.begun.get(self._key(exercise, work, options))
        return begun.result() if begun else self._grade(exercise, work, options)

    def close(self) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session", autouse=True)
def grade(request, launcher):
    grades = Grades(launcher, request.config.stash[AHEAD])
    yield grades
    grades.close()


@pytest.fixture(scope="session")
def ex01():
    return course.find("ex01")


@pytest.fixture
def short_path():
    """A folder with a short path, whatever TMPDIR and the test's name are: sockets of DataLoader workers lie below it."""
    path = scratch.make()
    yield path
    scratch.remove(path)
