"""What is remembered of gradings."""

from __future__ import annotations

import json

import pytest

from grader.course import catalog, progress
from grader.course.submissions import Submission
from grader.verdicts import BLOCKED, FAIL, INCONCLUSIVE, PASS, TaskResult


@pytest.fixture
def kept(tmp_path):
    return progress.Progress(tmp_path / ".grade" / "progress.json")


@pytest.fixture
def work(tmp_path, ex01):
    return Submission(tmp_path / "work", ex01.module, {ex01.module: b"x = 1\n"})


def result(task, verdict, code=None):
    evidence = {"code": code} if code else {}
    return TaskResult(task, "title", verdict, 0, 4, 1.0, evidence=evidence)


def test_a_verdict_is_remembered_and_the_last_pass_beside_it(kept, work):
    kept.remember(work, result("ex01.1", PASS), seed=7)
    kept.remember(work, result("ex01.1", FAIL, "state-lost"), seed=8)
    last = kept.of(work.folder)["ex01.1"]
    assert (last.verdict, last.code, last.seed, last.passed_seed) == (FAIL, "state-lost", 8, 7)
    assert last.passed <= last.when
    assert kept.of(work.folder.parent) == {}


def test_what_proves_nothing_changes_nothing(kept, work):
    kept.remember(work, result("ex01.1", PASS), seed=7)
    kept.remember(work, result("ex01.1", INCONCLUSIVE, "late"), seed=8)
    assert kept.of(work.folder)["ex01.1"].verdict == PASS


def test_the_first_task_that_isnt_passed(kept, work, ex01):
    assert kept.first_not_passed(ex01, work.folder) == ex01.tasks[0]
    kept.remember(work, result("ex01.1", PASS), seed=7)
    kept.remember(work, result("ex01.2", BLOCKED), seed=7)
    assert kept.first_not_passed(ex01, work.folder) == ex01.tasks[1]
    for task in ex01.tasks:
        kept.remember(work, result(task.id, PASS), seed=7)
    assert kept.first_not_passed(ex01, work.folder) is None


def test_the_next_exercise_is_one_that_isnt_passed(kept, ex01):
    _, ex02, ex03, ex04 = catalog.exercises().values()
    assert kept.what_next(ex01).startswith("Next: ex02")
    for exercise in (ex02, ex03):
        starter = Submission(exercise.starter, exercise.module, {})
        for task in exercise.tasks:
            kept.remember(starter, result(task.id, PASS), seed=7)
    assert kept.what_next(ex01).startswith("Next: ex04")
    assert "No later exercise" in kept.what_next(ex04)


def test_the_exercise_last_worked_on(kept, ex01):
    exercises = list(catalog.exercises().values())
    assert kept.last_worked_on(exercises) == ex01
    for exercise in (exercises[2], exercises[1]):
        starter = Submission(exercise.starter, exercise.module, {})
        kept.remember(starter, result(exercise.tasks[0].id, FAIL), seed=7)
    assert kept.last_worked_on(exercises) == exercises[1]
    assert f"{exercises[1].folder.name}/starter" in json.loads(kept.file.read_text())


@pytest.mark.parametrize(
    "text",
    ["", "[]", "[" * 100_000, "\xff", '{"/w": 3}', '{"WORK": {"ex01.1": {"verdict": "pass"}}}',
     '{"WORK": {"ex01.1": {"verdict": "splendid", "code": "", "when": 1, "seed": 1, "files": "",'
     ' "passed": null, "passed_seed": null}}}',
     '{"WORK": {"ex01.1": {"verdict": "pass", "code": "", "when": "x", "seed": 1, "files": "",'
     ' "passed": null, "passed_seed": null}}}'],
)  # fmt: skip
def test_a_damaged_file_is_ignored_and_written_again(kept, work, ex01, text):
    kept.file.parent.mkdir()
    kept.file.write_text(text.replace("WORK", str(work.folder)), encoding="latin-1")
    assert kept.of(work.folder) == {}
    kept.remember(work, result("ex01.1", PASS), seed=7)
    assert kept.of(work.folder)["ex01.1"].verdict == PASS


def test_a_file_that_cant_be_written_is_no_ones_problem(kept, work):
    kept.file.parent.write_text("in the way")
    kept.remember(work, result("ex01.1", PASS), seed=7)
    assert kept.of(work.folder) == {}


def test_a_class_doesnt_fill_the_file(kept, tmp_path, monkeypatch, ex01):
    monkeypatch.setattr(progress, "KEPT", 3)
    kept.remember(Submission(ex01.starter, ex01.module, {}), result("ex01.1", PASS), seed=7)
    for n in range(5):
        each = Submission(tmp_path / str(n), "checkpoint.py", {})
        kept.remember(each, result("ex01.1", PASS), seed=n)
    assert [bool(kept.of(tmp_path / str(n))) for n in range(5)] == [False, False, True, True, True]
    assert kept.of(ex01.starter)


def test_what_it_says(kept, work, ex01):
    kept.remember(work, result("ex01.1", PASS), seed=7)
    kept.remember(work, result("ex01.2", FAIL, "state-lost"), seed=7)
    last, files = kept.of(work.folder), progress.digest(work)
    now = last["ex01.1"].when
    assert last["ex01.1"].says(files, now + 725) == "passed 12 minutes ago"
    assert last["ex01.1"].says(files, now - 725) == "passed just now"
    assert last["ex01.2"].says(files, now + 7300) == "failed 2 hours ago: state-lost"
    changed = Submission(work.folder, ex01.module, {ex01.module: b"x = 2\n"})
    assert last["ex01.1"].says(progress.digest(changed), now + 86400) == (
        "passed 1 day ago; your files changed since"
    )
