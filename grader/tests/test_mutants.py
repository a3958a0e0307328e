"""The grader is graded: mutants are caught by their task and by no other, and messages stay as designed.

The messages of some mutants are kept in snapshots/. After a change that is meant:
UPDATE_SNAPSHOTS=1 make test ARGS="-k snapshot", then read the diff.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from grader import course, engine, mutants
from grader.verdicts import FAIL

SNAPSHOTS = Path(__file__).parent / "snapshots"
SEED = 2026
# one for every kind of evidence: progress, optimizer, RNG, batches, crash, storage faults, damage, retention
SHOWN = [
    "optimizer-forgotten",
    "scheduler-required",
    "lenient-load",
    "numpy-rng-forgotten",
    "one-gpu-only",
    "in-place",
    "error-swallowed",
    "silent-restart",
    "digest-of-the-head",
    "step-forgotten",
    "nothing-skipped",
    "workers-left-behind",
    "best-forgotten",
    "no-shuffle",
    "epochs-ignored",
    "nan-is-best",
    "damaged-ones-counted",
    "leftovers-stay",
]


def all_mutants():
    return [(e, m) for e in course.exercises().values() for m in mutants.load(e)]


def name(value):
    return value.name if isinstance(value, mutants.Mutant) else value.id


@pytest.fixture(scope="module")
def graded(launcher):
    """Results of mutants, graded once for all tests of this file."""
    results = {}

    def grade(exercise, mutant, whole=False):
        """All tasks if `whole`, else the one that must catch it."""
        if (mutant.name, whole) not in results:
            work, tasks = mutants.submission(exercise, mutant), [exercise.task(mutant.task).number]
            result = engine.grade(exercise, work, launcher, seed=SEED, tasks=None if whole else tasks)
            results[mutant.name, whole] = result
        return results[mutant.name, whole]

    return grade


# Every fifth mutant is graded by every task, the others by their own: `make matrix` grades all by all, and
# writes the table.
WHOLE = all_mutants()[::5]
REST = [pair for pair in all_mutants() if pair not in WHOLE]


@pytest.mark.needs_solution
@pytest.mark.parametrize("exercise,mutant", REST, ids=name)
def test_a_mutant_is_caught_by_its_task(graded, exercise, mutant):
    result = graded(exercise, mutant)
    assert mutants.objections(exercise, mutant, result) == []


@pytest.mark.needs_solution
@pytest.mark.parametrize("exercise,mutant", WHOLE, ids=name)
def test_a_mutant_is_caught_by_its_task_and_by_no_other(graded, exercise, mutant):
    result = graded(exercise, mutant, whole=True)
    assert len(result.tasks) == len(exercise.tasks)
    assert mutants.objections(exercise, mutant, result) == []


@pytest.mark.needs_solution
@pytest.mark.parametrize("name", SHOWN)
def test_the_message_is_the_snapshot(graded, ex01, name):
    mutant = next(m for m in mutants.load(ex01) if m.name == name)
    failed = next(t for t in graded(ex01, mutant).tasks if t.verdict == FAIL)
    # a file's size, and so the bytes at which it is torn, depends on torch's version
    message = re.sub(r"\bbyte \d+|\b\d{4,}\b", "N", failed.message) + "\n"
    path = SNAPSHOTS / "ex01" / f"{name}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(message)
    assert message == path.read_text()


@pytest.mark.needs_solution
def test_there_are_enough_mutants_of_every_task(ex01):
    found = mutants.load(ex01)
    assert len({m.name for m in found}) == len(found) >= 20
    whole = [m for e, m in WHOLE if e == ex01]
    assert len(whole) >= 20
    assert {m.task for m in found} == {m.task for m in whole} == {t.id for t in ex01.tasks}


@pytest.mark.needs_solution
def test_the_committed_table_lists_every_mutant(ex01):
    table = (mutants.HERE / "README.md").read_text()
    missing = [m.name for m in mutants.load(ex01) if f"| {m.name} | {m.mistake} |" not in table]
    assert not missing, "write it anew: grade dev matrix ex01 --write"
