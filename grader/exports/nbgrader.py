"""A gradebook as nbgrader exports one.

Columns and formats are those of CsvExportPlugin (jupyter/nbgrader, nbgrader/plugins/export.py).
nbgrader gives 0 to who submitted nothing; here, a grade that isn't known is an empty cell.
"""

from __future__ import annotations

from datetime import datetime, timezone

from grader.exports import tables
from grader.exports.matching import Report
from grader.exports.results_folder import Class

COLUMNS = (
    *("assignment", "duedate", "timestamp", "student_id", "last_name", "first_name", "email"),
    *("raw_score", "late_submission_penalty", "score", "max_score"),
)


def csv_text(results: Class, exercises: tuple[str, ...], report: Report) -> str:
    rows = []
    for exercise in exercises:
        most = results.max_score((exercise,))
        for student in results.students:
            grade = student.grade((exercise,))
            if grade.score is None:
                report.open(student, f"{exercise}: {grade.why}")
            score = "" if grade.score is None else float(grade.score)
            last, first = names(student.name)
            rows.append(
                (
                    *(
                        exercise,
                        "",
                        _timestamp(student.submitted),
                        student.ids.get("student_id", student.id),
                    ),
                    *(last, first, student.email, score, 0.0, score, float(most)),
                )
            )
    return tables.text(COLUMNS, rows)


def names(name: str) -> tuple[str, str]:
    """Last and first name of "Last, First" or "First Last"."""
    if "," in name:
        last, _, first = name.partition(",")
    else:
        first, _, last = name.rpartition(" ")
    return last.strip(), first.strip()


def _timestamp(submitted: str) -> str:
    """nbgrader keeps naive times in UTC."""
    try:
        time = datetime.fromisoformat(submitted.replace("Z", "+00:00"))
    except ValueError:
        return submitted
    return str(time.astimezone(timezone.utc).replace(tzinfo=None) if time.tzinfo else time)
