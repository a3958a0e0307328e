"""The grader's own tests: one warm fork server for all, and what a checkout may lack is said
aloud.
"""

from __future__ import annotations

import os
import shutil

import pytest

from grader.course import catalog
from grader.harness import launcher as launchers
from grader.harness import scratch
from grader.tests import beside

IN_CI = bool(os.environ.get("GRADE_CI"))


# files whose tests launch training runs by the dozen, or wait for a cluster
SLOW = (
    *("test_audit_mistakes", "test_audit_output", "test_audit_runs", "test_audit_template"),
    *("test_cluster_runs", "test_hostile", "test_mutants", "test_notebooks", "test_power_loss"),
    *("test_preemption", "test_quick_reference", "test_ranks", "test_solutions", "test_templates"),
    *("test_crash_command", "test_crash_templates", "test_workload"),
    *("test_integrations", "test_minimal"),
)


def pytest_collection_modifyitems(config, items):
    beside.in_order(items)
    for item in items:
        if item.path.name.startswith(SLOW):
            item.add_marker("slow")
        if item.path.parent.name == "slurm":
            item.add_marker("slurm")
    lacking = [e.id for e in catalog.exercises().values() if not e.solution.is_dir()]
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


@pytest.fixture(scope="session", autouse=True)
def grade(request, launcher):
    grades = beside.Grades(
        launcher,
        beside.wanted([i for i in request.session.items if not i.get_closest_marker("skip")]),
    )
    yield grades
    grades.close()


@pytest.fixture(scope="session")
def ex01():
    return catalog.find("ex01")


@pytest.fixture
def short_path():
    """A folder with a short path, whatever TMPDIR and the test's name are: sockets of DataLoader
    workers lie below it.
    """
    path = scratch.make()
    yield path
    scratch.remove(path)


@pytest.fixture
def checkout(tmp_path):
    """A copy of this checkout, for commands that write into it."""
    target = tmp_path / "course"
    ignore = shutil.ignore_patterns(
        ".venv", ".git", "__pycache__", ".grade", "starter.kept-*", "*.ipynb", ".pytest_cache"
    )
    shutil.copytree(catalog.ROOT, target, ignore=ignore)
    return target
