"""Moodle's grading worksheet of an assignment ("Offline grading worksheet").

Columns are those of Moodle's download (moodle/moodle, mod/assign/gradingtable.php). Its upload
(mod/assign/feedback/offline/importgradeslib.php and locallib.php) needs Identifier ("Participant
123", where 123 belongs to this assignment), Grade, and "Last modified (grade)". It skips an empty
grade, and one above the maximum. A column's name is in the language of whoever downloaded it.
"""

from __future__ import annotations

import re

from grader.errors import UsageError
from grader.exports import tables
from grader.exports.matching import Claims, Report, match, name_key
from grader.exports.results_folder import Class, Student
from grader.exports.tables import Table

IDENTIFIER, NAME, EMAIL, GRADE, MOST, CHANGEABLE, MODIFIED = (
    *("Identifier", "Full name", "Email address", "Grade", "Maximum grade"),
    *("Grade can be changed", "Last modified (grade)"),
)
COLUMNS = (
    *(IDENTIFIER, NAME, EMAIL, "Status", GRADE, MOST, CHANGEABLE),
    *("Last modified (submission)", MODIFIED),
)
PARTICIPANT = ("moodle_participant", "participant", "participant_id", "identifier")


def filled(results: Class, exercises: tuple[str, ...], worksheet: Table, report: Report) -> str:
    """The downloaded worksheet with its Grade column filled in."""
    missing = [name for name in (IDENTIFIER, GRADE, MODIFIED) if worksheet.column(name) is None]
    if missing:
        raise UsageError(
            f"this isn't a grading worksheet that Moodle can read: it has no {', '.join(missing)}; "
            "download it with Moodle's language set to English"
        )
    column = worksheet.column(GRADE)
    assert column is not None
    _check_most(worksheet, results.max_score(exercises))
    found = match(
        [_keys(worksheet, row) for row in worksheet.rows], results.students, _claims, report
    )
    rows = [list(row) for row in worksheet.rows]
    for number, student in found.items():
        grade = student.grade(exercises)
        if grade.score is None:
            report.open(student, grade.why)
            continue
        if _cell(worksheet, rows[number], CHANGEABLE).lower() == "no":
            report.open(student, "the worksheet says that Moodle doesn't let this grade be changed")
            continue
        rows[number][column] = str(grade.score)
    return tables.text(worksheet.header, rows, worksheet.separator)


def fresh(results: Class, exercises: tuple[str, ...], report: Report) -> str:
    """A worksheet for the students whose participant number is known."""
    rows = []
    for student in results.students:
        number = _participant(student)
        if not number:
            report.open(student, "their participant number in Moodle isn't known; give --worksheet")
            continue
        grade = student.grade(exercises)
        if grade.score is None:
            report.open(student, grade.why)
        score = "" if grade.score is None else grade.score
        most = results.max_score(exercises)
        rows.append(
            (f"Participant {number}", student.name, student.email, "", score, most, "Yes", "-", "-")
        )
    if not rows:
        raise UsageError("no student's participant number in Moodle is known; give --worksheet")
    return tables.text(COLUMNS, rows)


def _participant(student: Student) -> str:
    given = next((student.ids[name] for name in PARTICIPANT if name in student.ids), "")
    return _number(given)


def _number(identifier: str) -> str:
    found = re.search(r"(\d+)\s*$", identifier)
    return found[1] if found else ""


def _cell(worksheet: Table, row: list[str], name: str) -> str:
    column = worksheet.column(name)
    return "" if column is None else row[column].strip()


def _keys(worksheet: Table, row: list[str]) -> Claims:
    return [
        ("participant", _number(_cell(worksheet, row, IDENTIFIER))),
        ("email", _cell(worksheet, row, EMAIL)),
        ("name", name_key(_cell(worksheet, row, NAME))),
    ]


def _claims(student: Student) -> Claims:
    return [
        ("participant", _participant(student)),
        ("email", student.email),
        ("email", student.id),
        ("name", name_key(student.name)),
    ]


def _check_most(worksheet: Table, most: int) -> None:
    """Moodle would skip grades above its maximum without a word."""
    for row in worksheet.rows:
        try:
            possible = float(_cell(worksheet, row, MOST).replace(",", "."))
        except ValueError:
            continue
        if possible < most:
            raise UsageError(
                f"Moodle's maximum grade is {possible:g}, these results go up to {most}, and "
                f"Moodle skips what is above; set the assignment's maximum grade to {most}"
            )
