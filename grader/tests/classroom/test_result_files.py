"""What an instructor reads: the table, the page, the log; and what a student may read."""

from __future__ import annotations

import csv
import io
import json

import pytest

from grader.bench.classroom import first_difference
from grader.classroom.overview import distribution
from grader.classroom.records import Graded, Results, Settings, course_version, write_json
from grader.classroom.result_files import table, write_class, write_student
from grader.classroom.standings import misunderstood, standing
from grader.course import catalog
from grader.verdicts import FAIL, INCONCLUSIVE, PASS, Attempt, ExerciseResult, TaskResult

SETTINGS = Settings(7, ("ex01",), course_version())
EX01 = catalog.find("ex01")
LOST = {"code": "state-lost", "about": "NumPy RNG", "check": "a run with randomness rejoins"}
CRASHED = {"code": "crashed", "about": "ValueError:checkpoint.py:12", "check": "a file loads"}


def result(verdicts, causes=(), attempts=()):
    tasks = []
    for task, verdict in zip(EX01.tasks, verdicts, strict=True):
        evidence = {} if verdict == PASS else {"code": "state-lost", "causes": list(causes)}
        score = task.points if verdict == PASS else 0
        tasks.append(
            TaskResult(task.id, task.title, verdict, score, task.points, 1.0, "", evidence)
        )
    return ExerciseResult("ex01", EX01.title, tasks, 2.0, 3, 7, attempts=list(attempts))


@pytest.fixture
def results(tmp_path):
    """A class, as records on disk: results(alice=..., bob=None) adds students."""
    folder = Results(tmp_path / "results")

    def add(id, came, name="", **more):
        student = folder.student(id)
        data = {"student": id, "name": name or id, "exercises": {"ex01": "d"} if came else {}}
        write_json(student.folder / "submission.json", data | more)
        student = folder.student(id)
        if came:
            Graded(student.key("ex01", SETTINGS), came).write(student.record("ex01"))
        return student

    add.folder = folder
    return add


def rows(results):
    text = table([standing(s, SETTINGS) for s in results.folder.students], SETTINGS)
    return list(csv.DictReader(io.StringIO(text)))


def test_a_task_for_which_nothing_was_proved_has_no_points_and_no_zero(results):
    results("alice", result([PASS, FAIL, INCONCLUSIVE, PASS, PASS]))
    (row,) = rows(results)
    assert (row["ex01.2"], row["ex01.3"], row["inconclusive"]) == ("0", "", "ex01.3")


def test_what_couldnt_be_read_has_no_points_and_says_why(results):
    results("alice", None, problem="work.zip: it is damaged")
    (row,) = rows(results)
    assert (row["score"], row["ex01"], row["missing"]) == ("", "", "work.zip: it is damaged")


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+A1", "-A1", "@SUM(A1)", "\t=1"])
def test_no_cell_is_taken_for_a_formula(results, name):
    results("alice", result([PASS] * 5), name=name)
    (row,) = rows(results)
    assert row["name"] == f"'{name.strip()}"


def test_a_result_for_other_files_another_seed_or_another_course_doesnt_count(results):
    student = results("alice", result([PASS] * 5))
    assert student.graded("ex01", SETTINGS)
    for other in (Settings(8, ("ex01",), SETTINGS.course), Settings(7, ("ex01",), "other")):
        assert student.graded("ex01", other) is None
    student.data["exercises"] = {"ex01": "changed"}
    assert student.graded("ex01", SETTINGS) is None


def test_a_torn_record_doesnt_count(results):
    student = results("alice", result([PASS] * 5))
    whole = student.record("ex01").read_text()
    for end in (0, 1, len(whole) // 2, len(whole) - 3):
        student.record("ex01").write_text(whole[:end])
        assert student.graded("ex01", SETTINGS) is None


def test_a_misunderstanding_counts_each_student_once_and_a_crash_by_its_exception(results):
    lost = result([FAIL, FAIL, PASS, PASS, PASS], [LOST])
    results("alice", lost)
    results("bob", lost)
    results("carol", result([FAIL] * 5, [CRASHED]))
    results("dan", result([INCONCLUSIVE] * 5, [CRASHED]))
    found = misunderstood([standing(s, SETTINGS) for s in results.folder.students], [EX01])
    told = [
        (code, about, {t: len(those) for t, those in tasks.items()}) for code, about, tasks in found
    ]
    assert told[0] == ("state-lost", "NumPy RNG", {"ex01.1": 2, "ex01.2": 2})
    assert told[1][:2] == ("crashed", "ValueError") and len(told) == 2


def test_what_a_submission_tried_is_in_the_instructors_log_and_nowhere_else(results):
    tried = Attempt("test_x", "network", "203.0.113.9:4444", "checkpoint.py:3")
    student = results("alice", result([PASS] * 5, attempts=[tried]))
    write_student(standing(student, SETTINGS))
    write_class(results.folder, SETTINGS)
    log = (results.folder.folder / "instructor.log").read_text()
    assert log == (
        "alice: ex01 tried to reach the network: 203.0.113.9:4444 (checkpoint.py:3), in 1 check\n"
    )
    for name in ("report.html", "result.json", "log.txt"):
        assert "203.0.113" not in (student.folder / name).read_text()


def test_names_are_text_on_the_page_and_lines_in_the_log(results):
    evil = "<script>alert(1)</script>\x1b[2J\nfake: line"
    results("alice", result([FAIL] * 5, [LOST]), name=evil)
    results("bob", None, problem=evil)
    write_class(results.folder, SETTINGS)
    page = (results.folder.folder / "index.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    log = (results.folder.folder / "instructor.log").read_text()
    assert len(log.splitlines()) == 1 and "\x1b" not in log


def test_the_page_shows_counts_and_links_to_each_message(results):
    results("alice", result([PASS, FAIL, PASS, PASS, PASS], [LOST]))
    results("bob", result([PASS] * 5))
    write_class(results.folder, SETTINGS)
    page = " ".join((results.folder.folder / "index.html").read_text().split())
    assert "<strong>1 of 2</strong>" in page and "NumPy RNG" in page
    assert 'href="students/alice/report.html#ex01.2"' in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_distribution_holds_everybody_once():
    bars = distribution([0, 1, 9, 10, 19, 20, 20], 20)
    assert [bar.number for bar in bars] == [2, 0, 0, 0, 1, 1, 0, 0, 0, 3]
    assert (bars[0].label, bars[-1].label) == ("0 to 1", "18 to 20")


def test_a_record_survives_json(results):
    came = result([FAIL] * 5, [LOST], [Attempt("c", "read", "/etc/shadow", "a.py:1")])
    student = results("alice", came)
    graded = student.graded("ex01", SETTINGS)
    assert graded and graded.result == came
    assert json.loads(student.record("ex01").read_text())["schema"] == "grade-class/v1"


def test_the_first_difference_of_two_results_is_named():
    one = {"score": 4, "tasks": [{"verdict": "pass"}, {"verdict": "pass"}]}
    other = {"score": 4, "tasks": [{"verdict": "pass"}, {"verdict": "fail"}]}
    assert first_difference(one, one) == ""
    assert first_difference(one, other) == "/tasks/1/verdict: 'pass', and 'fail'"
    assert first_difference(one, {"score": 4}).startswith(": ")
