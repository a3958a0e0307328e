"""Gradebooks of a class: nbgrader, Canvas, Moodle."""

from __future__ import annotations

import csv
import io

import pytest

from grader.classroom import contents, handed_in, records, result_files
from grader.classroom.standings import standing
from grader.course import catalog
from grader.exports import canvas, matching, moodle, nbgrader, results_folder, tables
from grader.tests.exports.samples import FAILED, OPEN, PASSED, grade, result, written
from grader.verdicts import ExerciseResult, TaskResult

ALL = ("ex01",)


def student(folder, who, tasks=(), **fields):
    data = {"schema": "grade-class/v1", "student": who, "status": "handed in", **fields}
    written(folder / "students" / who / "submission.json", data)
    if tasks:
        written(folder / "students" / who / "result.json", result(*tasks))


@pytest.fixture
def results(tmp_path):
    """Five students: full marks, some, none by far, and two without a grade."""
    folder = tmp_path / "results"
    written(folder / "class.json", {"schema": "grade-class/v1", "seed": 7, "exercises": ["ex01"]})
    both = {**FAILED, "verdict": "pass", "score": 5}
    student(
        folder,
        "adams",
        [PASSED, both],
        name="Adams, Alice",
        email="alice@example.org",
        ids={"canvas_user_id": "101", "participant": "Participant 9001"},
        submitted="2026-06-01T14:32:05+02:00",
        late=False,
        system="canvas",
        digest="sha256...",
    )
    student(
        folder,
        "bob",
        [PASSED, FAILED],
        name="Bob Byte",
        email="BOB@example.org",
        submitted="2026-06-01T14:32:05Z",
    )
    nothing = {**PASSED, "verdict": "fail", "score": 0}
    student(folder, "carol", [nothing, FAILED], name="=HYPERLINK(1)", ids={"canvas_user_id": 103})
    student(
        folder, "dave", [PASSED, {**OPEN, "max_score": 5}], name="Dave D", email="dave@example.org"
    )
    student(folder, "eve", status="unreadable", problem="a link", name="Eve E", email=None)
    return folder


def rows(text):
    return list(csv.reader(io.StringIO(text)))


def report_of(make, *arguments):
    report = matching.Report()
    return rows(make(*arguments, report)), report.lines


# --- the folder -----------------------------------------------------------------------------------


def test_a_class_is_read_with_what_it_says(results):
    read = results_folder.read(results)
    assert read.exercises == ("ex01",) and read.max_score(ALL) == 9
    assert [s.id for s in read.students] == ["adams", "bob", "carol", "dave", "eve"]
    alice, bob, carol, dave, eve = read.students
    assert (alice.late, bob.late) == (False, None) and carol.ids == {"canvas_user_id": "103"}
    assert [s.grade(ALL).score for s in read.students] == [9, 4, 0, None, None]
    assert [s.grade(ALL).why for s in (dave, eve)] == ["inconclusive: ex01.4", "a link"]
    assert alice.grade(("ex01", "ex02")).why == "there is no result of ex02"


def test_a_damaged_result_is_that_students_alone(results):
    written(results / "students" / "bob" / "result.json", "{")
    read = results_folder.read(results)
    assert read.students[1].grade(ALL).score is None
    assert "result.json isn't JSON" in read.students[1].grade(ALL).why
    assert read.students[0].grade(ALL).score == 9


@pytest.mark.parametrize(
    "damage, says",
    [
        ("nothing", "holds no results of a class: there is no class.json in it"),
        ("schema", "the schema is 'grade/v1', and should be 'grade-class/v1'"),
        ("exercises", "class.json has no proper 'exercises'"),
        ("student", "submission.json isn't JSON"),
        ("other", "these results have no ex02; they have ex01"),
    ],
)
def test_a_folder_that_isnt_one_is_one_clear_line(results, damage, says):
    if damage == "nothing":
        (results / "class.json").unlink()
    elif damage == "schema":
        written(results / "class.json", {"schema": "grade/v1"})
    elif damage == "exercises":
        written(results / "class.json", {"schema": "grade-class/v1", "exercises": "ex01"})
    elif damage == "student":
        written(results / "students" / "bob" / "submission.json", "[")
    more = ["--exercise", "ex02"] if damage == "other" else []
    done = grade("export", "nbgrader", results, *more)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert says in line


def test_what_grade_class_writes_is_read(tmp_path, gradebook):
    """The class's own code takes Canvas's download; the ids in it find Canvas's rows."""
    download, ex01 = tmp_path / "download", catalog.find("ex01")
    for name in ("adamsalice_101_1_checkpoint.py", "byte_LATE_102_2_checkpoint.py"):
        written(download / name, "x = 1\n")
    folder = records.Results(tmp_path / "graded")
    settings = records.Settings(7, ("ex01",), records.course_version())
    settings.write(folder.folder)
    for one in handed_in.find(download, tmp_path):
        student = folder.take(one, contents.read(one, [ex01], tmp_path), [ex01])
        found = ExerciseResult("ex01", "", [TaskResult("ex01.1", "", "pass", 9, 9, 1.0)], 1.0, 3, 7)
        records.Graded(student.key("ex01", settings), found).write(student.record("ex01"))
        result_files.write_student(standing(student, settings))
    read = results_folder.read(folder.folder)
    assert [(s.late, s.grade(ALL).score) for s in read.students] == [(False, 9), (True, 9)]
    filled, lines = report_of(canvas.filled, read, ALL, tables.read(gradebook), "555")
    assert [row[-1] for row in filled[3:5]] == ["9", "9"] and lines == []
    written(download / "adamsalice_101_3_checkpoint-1.py", "x = 2\n")
    for one in handed_in.find(download, tmp_path):
        folder.take(one, contents.read(one, [ex01], tmp_path), [ex01])
    again = [s.grade(ALL) for s in results_folder.read(folder.folder).students]
    assert (again[0].score, again[1].score) == (None, 9)
    assert again[0].why == "ex01 was handed in again, and isn't graded since"


# --- cells ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell, safe",
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t=1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ('="=1"&A1', '\'="=1"&A1'),
        ('="=Alice"', '="=Alice"'),  # as Canvas writes it: a text, not a formula
        ("-3", "-3"),
        ("+4.5", "+4.5"),
        ("-", "-"),
        ("O'Neil, Pat", "O'Neil, Pat"),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula(cell, safe):
    assert tables.safe(cell) == safe
    assert rows(tables.text(["a"], [[cell]])) == [["a"], [safe]]


def test_a_file_is_read_whatever_separates_its_cells(tmp_path):
    for separator in ",;\t":
        text = f"\ufeffStudent{separator}ID\n\nAlice{separator}1\nBob\n"
        table = tables.read(written(tmp_path / "a.csv", text))
        assert (table.header, table.rows) == (["Student", "ID"], [["Alice", "1"], ["Bob", ""]])
        assert table.separator == separator


# --- nbgrader -------------------------------------------------------------------------------------


def test_nbgraders_gradebook(results):
    done = grade("export", "nbgrader", results)
    assert done.returncode == 0
    assert done.stdout == (
        "assignment,duedate,timestamp,student_id,last_name,first_name,email,"
        "raw_score,late_submission_penalty,score,max_score\n"
        "ex01,,2026-06-01 12:32:05,adams,Adams,Alice,alice@example.org,9.0,0.0,9.0,9.0\n"
        "ex01,,2026-06-01 14:32:05,bob,Byte,Bob,BOB@example.org,4.0,0.0,4.0,9.0\n"
        "ex01,,,carol,'=HYPERLINK(1),,,0.0,0.0,0.0,9.0\n"
        "ex01,,,dave,D,Dave,dave@example.org,,0.0,,9.0\n"
        "ex01,,,eve,E,Eve,,,0.0,,9.0\n"
    )
    assert done.stderr == (
        "grade: no grade for dave (Dave D): ex01: inconclusive: ex01.4\n"
        "grade: no grade for eve (Eve E): ex01: a link\n"
    )


@pytest.mark.parametrize(
    "name, parts",
    [
        ("Adams, Alice Ann", ("Adams", "Alice Ann")),
        ("Alice Ann Adams", ("Adams", "Alice Ann")),
        ("Cher", ("Cher", "")),
        ("", ("", "")),
    ],
)
def test_a_name_has_a_last_part(name, parts):
    assert nbgrader.names(name) == parts


# --- Canvas ---------------------------------------------------------------------------------------

GRADEBOOK = '''\
Student,ID,SIS User ID,SIS Login ID,Section,Lab 1 (555),Lab 2 (556),Final Score
,,,,,Manual Posting,,
    Points Possible,,,,,9.00,30.00,(read only)
"Adams, Alice",101,s101,aadams,A,,7.00,50
"Byte, Bob",102,s102,bob@example.org,A,2.00,,50
"=""=HYPERLINK(1)""",103,s103,carol,A,,,50
"D, Dave",104,s104,dave,B,3.00,,50
"Zero, Zoe",105,s105,zoe,B,,,50
'''


@pytest.fixture
def gradebook(tmp_path):
    return written(tmp_path / "gradebook.csv", GRADEBOOK)


def test_canvass_gradebook_is_filled_in(results, gradebook, tmp_path):
    arguments = ["export", "canvas", results, "--gradebook", gradebook, "--assignment", "Lab 1"]
    done = grade(*arguments, "-o", tmp_path / "out.csv")
    assert done.returncode == 0 and done.stdout == ""
    assert (tmp_path / "out.csv").read_text() == (
        "Student,ID,SIS User ID,SIS Login ID,Section,Lab 1 (555)\n"
        ",,,,,Manual Posting\n"
        "    Points Possible,,,,,9.00\n"
        '"Adams, Alice",101,s101,aadams,A,9\n'
        '"Byte, Bob",102,s102,bob@example.org,A,4\n'
        '"=""=HYPERLINK(1)""",103,s103,carol,A,0\n'
        '"D, Dave",104,s104,dave,B,3.00\n'  # inconclusive: what Canvas has stays
        '"Zero, Zoe",105,s105,zoe,B,\n'
    )
    assert done.stderr.splitlines() == [
        "grade: no grade for eve (Eve E): no row of the file is theirs",
        "grade: no grade for dave (Dave D): inconclusive: ex01.4",
    ]


def test_other_points_in_canvas_are_said(results, gradebook):
    read, table = results_folder.read(results), tables.read(gradebook)
    _, lines = report_of(canvas.filled, read, ALL, table, "556")
    assert lines[1].startswith("Canvas has 30.00 points possible for this assignment, these")


def test_two_submissions_for_one_row_give_it_no_grade(results, gradebook):
    student(results, "alice2", [PASSED, FAILED], ids={"canvas_user_id": "101"})
    read, table = results_folder.read(results), tables.read(gradebook)
    found, lines = report_of(canvas.filled, read, ALL, table, "555")
    assert found[3][-1] == ""
    assert "no grade for alice2: the same row is also that of adams (Adams, Alice)" in lines


def test_without_an_exported_gradebook_canvas_gets_a_new_assignment(results):
    found, _ = report_of(canvas.fresh, results_folder.read(results), ALL, "Lab 1")
    assert found[:3] == [
        ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "Lab 1"],
        ["    Points Possible", "", "", "", "", "9"],
        ["Adams, Alice", "101", "", "alice@example.org", "", "9"],
    ]
    assert found[4] == ["'=HYPERLINK(1)", "103", "", "", "", "0"]
    assert found[5] == ["Dave D", "", "", "dave@example.org", "", ""]


@pytest.mark.parametrize(
    "text, assignment, says",
    [
        (None, "", "can't read"),
        ("", "", "is empty"),
        ("a,b\n1,2\n", "", "isn't a gradebook that Canvas exported"),
        (GRADEBOOK, "", "name the assignment to fill in; --assignment takes a name or an id of: "),
        (GRADEBOOK, "Lab 3", "no column is 'Lab 3'; --assignment takes a name or an id of: Lab 1 "),
    ],
)
def test_a_wrong_gradebook_is_one_clear_line(results, tmp_path, text, assignment, says):
    file = tmp_path / "gradebook.csv"
    if text is not None:
        written(file, text)
    more = ["--assignment", assignment] if assignment else []
    done = grade("export", "canvas", results, "--gradebook", file, *more)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert says in line


# --- Moodle ---------------------------------------------------------------------------------------

WORKSHEET = """\
Identifier,"Full name","Email address",Status,Grade,"Maximum Grade","Grade can be changed",\
"Last modified (submission)","Last modified (grade)","Feedback comments"
"Participant 9001","Alice Adams",alice@example.org,"Submitted for grading",,9.00,Yes,x,-,
"Participant 9002","Bob Byte",bob@example.org,"Submitted for grading",2.00,9.00,Yes,x,y,
"Participant 9003",=HYPERLINK(1),carol@example.org,"Submitted for grading",,9.00,No,x,-,
"Participant 9004","Dave D",dave@example.org,"Submitted for grading",,9.00,Yes,x,-,
"""


@pytest.fixture
def worksheet(tmp_path):
    return written(tmp_path / "worksheet.csv", WORKSHEET)


def test_moodles_worksheet_is_filled_in(results, worksheet):
    done = grade("export", "moodle", results, "--worksheet", worksheet)
    assert done.returncode == 0
    header, *found = rows(done.stdout)
    assert header == rows(WORKSHEET)[0]
    assert [row[0] for row in found] == [f"Participant {n}" for n in range(9001, 9005)]
    assert [row[4] for row in found] == ["9", "4", "", ""]
    assert found[2][1] == "'=HYPERLINK(1)" and found[0][8] == "-"
    assert done.stderr.splitlines() == [
        "grade: no grade for eve (Eve E): no row of the file is theirs",
        "grade: no grade for carol (=HYPERLINK(1)): the worksheet says that Moodle doesn't let "
        "this grade be changed",
        "grade: no grade for dave (Dave D): inconclusive: ex01.4",
    ]


def test_without_a_worksheet_moodle_gets_those_it_can_find(results):
    found, lines = report_of(moodle.fresh, results_folder.read(results), ALL)
    assert found == [
        [*moodle.COLUMNS],
        *[["Participant 9001", "Adams, Alice", "alice@example.org", "", "9", "9", "Yes", "-", "-"]],
    ]
    assert len(lines) == 4 and "participant number in Moodle isn't known" in lines[0]


@pytest.mark.parametrize(
    "text, says",
    [
        ("Kennung,Bewertung\n1,2\n", "has no Identifier, Grade, Last modified (grade); download"),
        (WORKSHEET.replace("9.00", "5.00"), "maximum grade is 5, these results go up to 9"),
    ],
)
def test_a_wrong_worksheet_is_one_clear_line(results, tmp_path, text, says):
    file = written(tmp_path / "worksheet.csv", text)
    done = grade("export", "moodle", results, "--worksheet", file)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert says in line
