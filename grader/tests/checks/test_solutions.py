"""Every solution scores full marks, every starter nothing (yet it runs), right solutions of any
style all.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from grader import collection
from grader.course import catalog, derive, submissions
from grader.harness.lab import Lab
from grader.harness.workbench import Bench
from grader.verdicts import BLOCKED, FAIL

# a file that is the exercise's module, or a folder with all of its files
ALTERNATIVES = [
    p
    for p in sorted((Path(__file__).parents[1] / "alternatives").glob("ex*/*"))
    if p.suffix == ".py" or (p.is_dir() and p.name != "__pycache__")
]


def points(result) -> str:
    """Score, and every message: what a failing test should show."""
    return f"{result.score} of {result.max_score}, seed {result.seed}\n" + "\n\n".join(
        t.message for t in result.tasks
    )


EXERCISES = pytest.mark.parametrize("exercise", catalog.exercises().values(), ids=lambda e: e.id)


@pytest.mark.needs_solution
@pytest.mark.parametrize(
    "exercise,seed",
    [
        (e, seed)
        for e in catalog.exercises().values()
        for seed in ((1, 2) if e.id == "ex01" else (1,))
    ],
    ids=lambda v: getattr(v, "id", v),
)
def test_the_solution_scores_full_marks(grade, exercise, seed):
    result = grade(exercise, submissions.submission(exercise, None, solution=True), seed=seed)
    assert result.score == exercise.points, points(result)
    assert result.attempts == []


@pytest.mark.needs_solution
@pytest.mark.parametrize("path", ALTERNATIVES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_right_solution_in_another_style_scores_full_marks(grade, path):
    exercise, work = alternative(path)
    result = grade(exercise, work, seed=4)
    assert result.score == exercise.points, points(result)
    assert result.attempts == []


def alternative(path: Path) -> tuple[catalog.Exercise, submissions.Submission]:
    exercise = catalog.find(path.parent.name)
    template = catalog.ROOT / "templates" / "checkpoint_utils.py"  # one of them is built on it
    files = (
        {exercise.module: path.read_bytes()}
        if path.is_file()
        else {f.name: f.read_bytes() for f in path.iterdir() if f.is_file()}
    )
    work = submissions.Submission(
        path.parent, exercise.module, files | {template.name: template.read_bytes()}
    )
    work.key = f"alternative {path.stem}"
    return exercise, work


def pristine(exercise: catalog.Exercise) -> submissions.Submission:
    """The starter, derived on the fly: the one in the checkout may be somebody's work."""
    work = submissions.Submission(exercise.starter, exercise.module, derive.starter_files(exercise))
    work.key = "pristine starter"
    return work


def alone_of(task) -> dict:
    return {"seed": 5, "tasks": [task.number]}


@pytest.mark.needs_solution
@EXERCISES
def test_an_untouched_starter_scores_nothing(grade, exercise):
    result = grade(exercise, pristine(exercise), seed=5)
    assert result.score == 0
    # every single task fails by itself, too: none is blocked only because an earlier one failed
    for blocked in (t for t in result.tasks if t.verdict == BLOCKED):
        alone = grade(exercise, pristine(exercise), **alone_of(exercise.task(blocked.id)))
        assert [t.verdict for t in alone.tasks] == ["fail"], points(alone)
    assert {t.verdict for t in result.tasks} <= {FAIL, BLOCKED}


def ahead(test: str, params: dict):
    """What a test of this file will ask `grade` for."""
    if test == "test_the_solution_scores_full_marks":
        return (
            params["exercise"],
            submissions.submission(params["exercise"], None, solution=True),
            {"seed": params["seed"]},
        )
    if test == "test_a_right_solution_in_another_style_scores_full_marks":
        return *alternative(params["path"]), {"seed": 4}
    if test == "test_an_untouched_starter_scores_nothing":
        exercise = params["exercise"]
        building = [task for task in exercise.tasks if task.needs]
        return [
            (exercise, pristine(exercise), options)
            for options in ({"seed": 5}, *map(alone_of, building))
        ]
    return None


RUNS = {
    "ex01": (("ex01/train.py", "--every-epochs", 1, "--keep", 2), None, 30),
    "ex02": (("ex02/train_ddp.py", "--functions", "save_job"), 2, 12),
    "ex03": (("ex03/train_preempt.py",), None, 12),
    "ex04": (("ex04/function_cases.py",), None, 0),
}


@pytest.mark.needs_solution
@EXERCISES
def test_an_untouched_starter_runs(launcher, exercise):
    argv, ranks, steps = RUNS[exercise.id]
    bench = Bench(pristine(exercise), launcher, seed=0, jobs=2)
    try:
        run = Lab(bench, "starter").launch(*argv, ranks=ranks)
        assert run.finished, run.last.text()
        assert len((run if ranks is None else run.of(0)).trajectory.steps) == steps
    finally:
        bench.close()


POINTS = {
    "ex01": [4, 4, 4, 5, 3],
    "ex02": [6, 6, 8, 4, 6],
    "ex03": [4, 6, 4, 6, 5],
    "ex04": [5, 7, 5, 3, 5],
}


@EXERCISES
def test_points_are_as_the_course_says(exercise):
    assert [t.points for t in exercise.tasks] == POINTS[exercise.id]


@EXERCISES
def test_every_check_belongs_to_a_task_and_every_task_has_checks(exercise):
    assert {c.task for c in collection.collect(exercise)} == {t.id for t in exercise.tasks}


@EXERCISES
def test_every_task_has_a_ladder_of_hints(exercise):
    for task in exercise.tasks:
        assert len(task.hints) >= 3 and all(len(h) > 40 for h in task.hints), task.id
