"""The grader is graded: mutants are caught by their task and by no other, and messages stay as
designed.

The messages of some mutants are kept in snapshots/. After a change that is meant:
UPDATE_SNAPSHOTS=1 make test ARGS="-k snapshot", then read the diff.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from grader import mutants
from grader.authoring import kill_matrix
from grader.course import catalog
from grader.mutants.shown import SHOWN
from grader.verdicts import FAIL

SNAPSHOTS = Path(__file__).parents[1] / "snapshots"
SEED = 2026


def all_mutants():
    return [(e, m) for e in catalog.exercises().values() for m in mutants.load(e)]


def name(value):
    return value.name if isinstance(value, mutants.Mutant) else value.id


def options(exercise, mutant, whole: bool) -> dict:
    """All tasks if `whole`, else the one that must catch it. On the stand-in, which is quick;
    solutions are graded on the real cluster, and what one says the other does
    (grader/tests/slurm/test_slurm_conformance.py).
    """
    return {
        "seed": SEED,
        "tasks": None if whole else [exercise.task(mutant.task).number],
        **kill_matrix.on_cluster(exercise),
    }


@pytest.fixture(scope="module")
def graded(grade):
    """Results of mutants, graded once for all tests of this file."""
    results = {}

    def of(exercise, mutant, whole=False):
        if (exercise.id, mutant.name, whole) not in results:
            result = grade(
                exercise, mutants.submission(exercise, mutant), **options(exercise, mutant, whole)
            )
            results[exercise.id, mutant.name, whole] = result
        return results[exercise.id, mutant.name, whole]

    return of


def ahead(test: str, params: dict):
    """What a test of this file will ask `grade` for."""
    if test not in (
        "test_a_mutant_is_caught_by_its_task",
        "test_a_mutant_is_caught_by_its_task_and_by_no_other",
    ):
        return None
    exercise, mutant = params["exercise"], params["mutant"]
    return (
        exercise,
        mutants.submission(exercise, mutant),
        options(exercise, mutant, whole=test.endswith("no_other")),
    )


# `make matrix` grades every mutant by every task, and writes the tables. Here, to be done in
# minutes, a share of them is graded by every task, and of the others those that are shown and one
# of twenty by their own. Ranks cost more.
WHOLE_OF = {"ex01": 36, "ex02": 60, "ex03": 70, "ex04": 60}


def _share(exercise: catalog.Exercise) -> tuple[list, list]:
    found = [(e, m) for e, m in all_mutants() if e == exercise]
    whole = found[:: WHOLE_OF[exercise.id]]
    own = [
        p
        for n, p in enumerate(found)
        if p not in whole and (n % 20 == 1 or p[1].name in SHOWN[exercise.id])
    ]
    return whole, own


SHARES = [_share(e) for e in catalog.exercises().values()]
WHOLE = [pair for whole, _ in SHARES for pair in whole]
REST = [pair for _, own in SHARES for pair in own]


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


# ranks that don't wait for each other: which other checks fail is chance
RACES = {"nobody-waits"}


@pytest.mark.needs_solution
@pytest.mark.parametrize(
    "exercise,name", [(e, name) for e, names in SHOWN.items() for name in names]
)
def test_the_message_is_the_snapshot(graded, exercise, name):
    exercise = catalog.find(exercise)
    mutant = next(m for m in mutants.load(exercise) if m.name == name)
    failed = next(t for t in graded(exercise, mutant).tasks if t.verdict == FAIL)
    # a file's size, and so the bytes at which it is torn, depends on torch's version
    # what a job's processes and Slurm print comes in an order of chance
    said = re.sub(r"^printed .*\n(?: {11}.*\n)*", "", failed.message, flags=re.M)
    if name in RACES:
        said = re.sub(r"^and  .*\n", "", said, flags=re.M)
    message = f"code       {failed.evidence['code']}\n{said}\n"
    message = re.sub(r"(?<=\bbyte )\d+|\b\d{4,}\b", "N", message)
    path = SNAPSHOTS / exercise.id / f"{name}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(message)
    assert message == path.read_text()


@pytest.mark.needs_solution
@pytest.mark.parametrize("exercise", catalog.exercises().values(), ids=lambda e: e.id)
def test_there_are_enough_mutants_of_every_task(exercise):
    found = mutants.load(exercise)
    assert len({m.name for m in found}) == len(found) >= 15
    here = {m.task for e, m in WHOLE + REST if e == exercise}
    assert {m.task for m in found} == here == {t.id for t in exercise.tasks}


@pytest.mark.needs_solution
@pytest.mark.parametrize("exercise,mutant", all_mutants(), ids=name)
def test_the_committed_table_lists_every_mutant_and_who_caught_it(exercise, mutant):
    table = kill_matrix.table_path(exercise).read_text()
    lines = [
        line
        for line in table.splitlines()
        if line.startswith(f"| {mutant.name} | {mutant.mistake} |")
    ]
    assert len(lines) == 1, f"write it anew: grade dev matrix {exercise.id} --write"
    caught = dict(
        zip(
            [t.id for t in exercise.tasks],
            [cell.strip() for cell in lines[0].split("|")[4:-1]],
            strict=False,
        )
    )
    assert caught[mutant.task] == kill_matrix.SIGN[FAIL]
    assert all(
        sign != kill_matrix.SIGN[FAIL] for task, sign in caught.items() if task != mutant.task
    )
