"""Lets plain pytest run the checks: `pytest grader/checks --submission DIR`.

The engine runs them all at once, in threads; pytest then asks for each outcome, in order.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from grader import engine
from grader.course import catalog, submissions
from grader.errors import UsageError
from grader.harness import launcher as launchers
from grader.harness.workbench import course_paths
from grader.report.logs import escaped
from grader.verdicts import BLOCKED, INCONCLUSIVE, PASS

_gradings: dict[str, engine.Grading] = {}
_launcher = None


def pytest_addoption(parser):
    group = parser.getgroup("grader")
    group.addoption(
        "--submission", type=Path, help="grade this directory (default: starter/ of the course)"
    )
    group.addoption("--solution", action="store_true", help="grade the reference solutions")
    group.addoption("--jobs", type=int, help="processes at a time (default: the number of cores)")
    group.addoption("--seed", type=int, help="draw model, data and faults from this seed")
    group.addoption("--launcher", choices=["fork", "plain"], help="how processes start")


@pytest.fixture
def lab():
    """Stands for the lab that the engine gives to the check's body."""


def _grading(config, exercise_id: str) -> engine.Grading:
    global _launcher
    if exercise_id not in _gradings:
        exercise = catalog.find(exercise_id)
        try:
            work = submissions.submission(
                exercise, config.getoption("--submission"), config.getoption("--solution")
            )
        except UsageError as e:
            raise pytest.UsageError(str(e)) from e
        if _launcher is None:
            _launcher = launchers.choose(config.getoption("--launcher"))
        options = {name: config.getoption(f"--{name}") for name in ("seed", "jobs")}
        _gradings[exercise_id] = engine.Grading(exercise, work, _launcher, **options).start()
        print(
            f"\n{exercise_id}: {work.folder}, seed {_gradings[exercise_id].seed}", file=sys.stderr
        )
    return _gradings[exercise_id]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    task = getattr(pyfuncitem.function, "task", None)
    if task is None:
        return None
    grading = _grading(pyfuncitem.config, task.split(".")[0])
    if blockers := grading.blockers(task):
        pytest.skip(f"{BLOCKED}: builds on {', '.join(blockers)}, which failed")
    outcome = grading.outcome(pyfuncitem.name)
    if outcome and outcome.verdict != PASS:
        title = f"{INCONCLUSIVE}: " if outcome.verdict == INCONCLUSIVE else ""
        text = escaped(course_paths(str(outcome.finding), grading.bench))
        replay = grading.commands.replay(outcome)
        pytest.fail(
            f"{task}  {title}{outcome.title}{text}\n  replay     {replay}",
            pytrace=False,
        )
    return True


def pytest_sessionfinish():
    for grading in _gradings.values():
        grading.close()
    if _launcher:
        _launcher.close()
