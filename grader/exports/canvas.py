"""Canvas's gradebook: its exported file with one column filled in.

The columns are those of Canvas's exporter and importer (instructure/canvas-lms,
lib/gradebook_exporter.rb and lib/gradebook_importer.rb). The first row is the header: Student (or
LastName, FirstName), ID, SIS User ID, SIS Login ID, Section, then assignments as "Name (id)". A row
"Points Possible" follows, perhaps after one that says "Manual Posting". Canvas finds students by
ID, then by SIS IDs, then by name, and ignores columns that aren't there.

A cell that changes from a grade to nothing would delete the grade in Canvas. So a cell without a
new grade stays as it was exported.
"""

from __future__ import annotations

import re

from grader.errors import UsageError
from grader.exports import tables
from grader.exports.matching import Claims, Report, match, name_key
from grader.exports.results_folder import Class, Student
from grader.exports.tables import Table

PERSON = (
    *("Student", "LastName", "FirstName", "ID", "SIS User ID", "SIS Login ID", "Integration ID"),
    *("Root Account", "Section"),
)
POINTS = "Points Possible"
SIS_ID, LOGIN = ("sis_user_id", "sid"), ("sis_login_id", "login")  # as other systems call them
_ASSIGNMENT = re.compile(r"(.+) \((\d+)\)")


def filled(
    results: Class, exercises: tuple[str, ...], gradebook: Table, assignment: str, report: Report
) -> str:
    """The exported gradebook with the assignment's column alone, filled in."""
    if gradebook.column("ID") is None or gradebook.column("Student", "LastName") is None:
        raise UsageError(
            "this isn't a gradebook that Canvas exported: its first row has no Student and ID, but "
            + ", ".join(gradebook.header[:6])
        )
    column = _assignment(gradebook, assignment)
    kept = [n for n, name in enumerate(gradebook.header) if name in PERSON]
    people = [n for n, row in enumerate(gradebook.rows) if _is_student(gradebook, row)]
    found = match(
        [_keys(gradebook, gradebook.rows[n]) for n in people], results.students, _claims, report
    )
    _compare_points(gradebook, column, results.max_score(exercises), report)
    values = {}
    for number, student in found.items():
        grade = student.grade(exercises)
        if grade.score is None:
            report.open(student, grade.why)
        else:
            values[people[number]] = str(grade.score)
    return tables.text(
        [gradebook.header[n] for n in [*kept, column]],
        [
            [*(row[n] for n in kept), values.get(number, row[column])]
            for number, row in enumerate(gradebook.rows)
        ],
        gradebook.separator,
    )


def fresh(results: Class, exercises: tuple[str, ...], assignment: str, report: Report) -> str:
    """A file for a new assignment, without an exported one: students by what ids they have."""
    rows: list[tuple[object, ...]] = [(f"    {POINTS}", *[""] * 4, results.max_score(exercises))]
    for student in results.students:
        login = _first(student.ids, LOGIN) or student.email
        grade = student.grade(exercises)
        if grade.score is None:
            report.open(student, grade.why)
        rows.append(
            (
                *(student.name or student.id, student.ids.get("canvas_user_id", "")),
                *(_first(student.ids, SIS_ID), login, ""),
                "" if grade.score is None else grade.score,
            )
        )
    columns = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section", assignment)
    return tables.text(columns, rows)


def _assignment(gradebook: Table, wanted: str) -> int:
    """The column of an assignment: by its whole title, its name, or its id."""
    titles = {
        n: (name, *(m.groups() if (m := _ASSIGNMENT.fullmatch(name)) else ()))
        for n, name in enumerate(gradebook.header)
        if name not in PERSON
    }
    named = [n for n, title in titles.items() if wanted in title]
    with_id = [n for n, title in titles.items() if len(title) > 1]
    found = named if wanted else with_id
    if len(found) == 1:
        return found[0]
    known = ", ".join(gradebook.header[n] for n in with_id) or "none"
    if wanted:
        problem = f"no column is '{wanted}'" if not found else f"several columns are '{wanted}'"
    else:
        problem = "name the assignment to fill in"
    raise UsageError(f"{problem}; --assignment takes a name or an id of: {known}")


def _is_student(gradebook: Table, row: list[str]) -> bool:
    column = gradebook.column("ID")
    assert column is not None
    return bool(row[column].strip()) and POINTS not in row[0]


def _keys(gradebook: Table, row: list[str]) -> Claims:
    keys = [(name, row[n].strip()) for n, name in enumerate(gradebook.header) if name in PERSON]
    given = dict(keys)
    name = given.get("Student") or f"{given.get('LastName', '')} {given.get('FirstName', '')}"
    return [*keys, ("name", name_key(name.strip('="')))]


def _claims(student: Student) -> Claims:
    ids = student.ids
    return [
        ("ID", ids.get("canvas_user_id", "")),
        ("SIS User ID", _first(ids, SIS_ID)),
        ("SIS Login ID", _first(ids, LOGIN)),
        ("SIS Login ID", student.email),
        ("SIS User ID", student.id),
        ("SIS Login ID", student.id),
        ("ID", student.id),
        ("name", name_key(student.name)),
    ]


def _first(ids: dict[str, str], names: tuple[str, ...]) -> str:
    return next((ids[name] for name in names if name in ids), "")


def _compare_points(gradebook: Table, column: int, most: int, report: Report) -> None:
    possible = next((row[column] for row in gradebook.rows if POINTS in row[0]), "")
    try:
        same = float(possible.replace(",", ".")) == most
    except ValueError:
        return
    if not same and most:
        report.note(
            f"Canvas has {possible} points possible for this assignment, these results have "
            f"{most}: the grades are entered as they are"
        )
