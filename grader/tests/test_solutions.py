"""Every solution scores full marks, every starter nothing (yet it runs), right solutions of any style all."""

from __future__ import annotations

from pathlib import Path

import pytest

from grader import course, derive, engine
from grader.harness.lab import Bench, Lab
from grader.verdicts import PASS

ALTERNATIVES = sorted((Path(__file__).parent / "alternatives").glob("ex*/*.py"))


def points(result) -> str:
    """Score, and every message: what a failing test should show."""
    return f"{result.score} of {result.max_score}, seed {result.seed}\n" + "\n\n".join(t.message for t in result.tasks)


@pytest.mark.needs_solution
@pytest.mark.parametrize("seed", [1, 2])
def test_the_solution_scores_full_marks(launcher, ex01, seed):
    result = engine.grade(ex01, course.submission(ex01, None, solution=True), launcher, seed=seed)
    assert result.score == ex01.points, points(result)


@pytest.mark.needs_solution
@pytest.mark.parametrize("path", ALTERNATIVES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_right_solution_in_another_style_scores_full_marks(launcher, path):
    exercise = course.find(path.parent.name)
    template = course.ROOT / "templates" / "checkpoint_utils.py"  # one of them is built on it
    work = course.Submission(path.parent, exercise.module, {exercise.module: path.read_bytes(), template.name: template.read_bytes()})
    result = engine.grade(exercise, work, launcher, seed=4)
    assert result.score == exercise.points, points(result)


@pytest.fixture
def starter(ex01):
    """The pristine starter, derived on the fly: the one in the checkout may be somebody's work."""
    work = course.Submission(ex01.starter, ex01.module, derive.starter_files(ex01))
    work.key = "pristine starter"
    return work


@pytest.mark.needs_solution
def test_an_untouched_starter_scores_nothing(launcher, ex01, starter):
    result = engine.grade(ex01, starter, launcher, seed=5)
    assert result.score == 0
    assert PASS not in [t.verdict for t in result.tasks]
    # every single task fails by itself, too: none is blocked only because an earlier one failed
    for task in ex01.tasks:
        alone = engine.grade(ex01, starter, launcher, seed=5, tasks=[task.number])
        assert [t.verdict for t in alone.tasks] == ["fail"], points(alone)


@pytest.mark.needs_solution
def test_an_untouched_starter_runs(launcher, ex01, starter):
    bench = Bench(starter, launcher, seed=0, jobs=1)
    try:
        run = Lab(bench, "starter").launch("train.py", "--every-epochs", 1, "--keep", 2)
        assert run.finished, run.last.text()
        assert len(run.trajectory.steps) == 30
    finally:
        bench.close()


def test_points_are_as_the_course_says(ex01):
    assert [t.points for t in ex01.tasks] == [4, 4, 4, 5, 3]
    assert sum(e.points for e in course.exercises().values()) in (20, 50, 75, 100)


def test_every_check_belongs_to_a_task_and_every_task_has_checks(ex01):
    tasks = {t.id for t in ex01.tasks}
    checked = {c.task for c in engine.collect(ex01)}
    assert checked == tasks


def test_every_task_has_a_ladder_of_hints(ex01):
    for task in ex01.tasks:
        assert len(task.hints) >= 3 and all(len(h) > 40 for h in task.hints), task.id
