"""Writes a class's results: each student's files, results.csv, the instructor's log."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from grader import explain
from grader.classroom import overview
from grader.classroom.grading import is_inconclusive
from grader.classroom.records import Results, Settings
from grader.classroom.standings import Standing, standings
from grader.course import catalog
from grader.exports.tables import safe
from grader.files import write_atomically
from grader.report import html, output
from grader.report.logs import escaped
from grader.report.message import LABEL
from grader.verdicts import INCONCLUSIVE, ExerciseResult, TaskResult

TRIED = {
    "network": "tried to reach the network: {what}",
    "read": "tried to read a file that isn't its own: {what}",
    "write": "tried to write outside its folders: {what}",
    "signal": "tried to send signal {what}",
    "reports": "opened the file of the grader's reports",
    "interpreter": "used the interpreter's hooks: {what}",
}


def write_student(of: Standing) -> None:
    """result.json, report.html and log.txt: what the student may get."""
    folder, results = of.student.folder, list(of.results.values())
    write_atomically(folder / "result.json", output.json_text(results))
    write_atomically(folder / "report.html", html.page(results, explain.explanations()))
    write_atomically(folder / "log.txt", "\n".join(_log_lines(of)) + "\n")


def _log_lines(of: Standing) -> Iterator[str]:
    for result in of.results.values():
        yield f"{result.id}  {result.title}  {result.score}/{result.max_score}"
        for task in result.tasks:
            points = f"{task.score}/{task.max_score}"
            yield f"{task.verdict.upper():<12} {task.id}  {task.title}  {points}"
            for line in task.message.splitlines():
                label, text = line[:LABEL], line[LABEL:]
                yield f"  {label}{text}"
        yield ""
    for exercise, why in of.missing.items():
        yield f"{exercise}  {why}"


def write_class(results: Results, settings: Settings) -> list[Standing]:
    """results.csv, index.html and instructor.log."""
    found = standings(results, settings)
    write_atomically(results.folder / "results.csv", table(found, settings))
    write_atomically(results.folder / "instructor.log", "".join(_log(found)))
    write_atomically(results.folder / "index.html", overview.page(found, settings))
    return found


def table(standings: Sequence[Standing], settings: Settings) -> str:
    """A row for each student: points of exercises and tasks; empty where nothing was proved."""
    exercises = [catalog.find(name) for name in settings.exercises]
    tasks = [(e, t) for e in exercises for t in e.tasks]
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(
        ["student", "name", "email", "score", "max_score"]
        + [e.id for e in exercises]
        + [t.id for _, t in tasks]
        + ["inconclusive", "missing"]
    )
    for one in standings:
        cells = [one.student.id, one.student.name, one.student.email]
        write(
            [safe(" ".join(cell.split())) for cell in cells]
            + [one.score if not one.student.problem else "", sum(e.points for e in exercises)]
            + [_points(one.results.get(e.id)) for e in exercises]
            + [_points(one.task(e.id, t.id)) for e, t in tasks]
            + [" ".join(one.inconclusive), safe(" ".join(_missing(one).split()))]
        )
    return text.getvalue()


def _points(of: ExerciseResult | TaskResult | None) -> int | str:
    if of is None or (isinstance(of, TaskResult) and of.verdict == INCONCLUSIVE):
        return ""
    return of.score


def _missing(one: Standing) -> str:
    if one.student.problem:
        return one.student.problem
    return "; ".join(f"{exercise}: {why}" for exercise, why in one.missing.items())


def _log(standings: Sequence[Standing]) -> Iterator[str]:
    """What an instructor should know and a student's report doesn't say."""
    for one in standings:
        for line in _noticed(one):
            yield escaped(f"{one.student.id}: {line}").replace("\n", " ") + "\n"


def _noticed(one: Standing) -> Iterator[str]:
    if one.student.problem:
        yield f"not graded: {one.student.problem}"
    for exercise, why in one.student.problems.items():
        yield f"{exercise} not graded: {why}"
    yield from one.student.notes
    for result in one.results.values():
        if is_inconclusive(result):
            tasks = ", ".join(t.id for t in result.tasks if t.verdict == INCONCLUSIVE)
            yield f"inconclusive: {tasks}"
        checks: dict[str, int] = {}
        for tried in result.attempts:
            line = TRIED.get(tried.kind, "{what}").format(what=tried.what)
            line = f"{result.id} {line} ({tried.where})"
            checks[line] = checks.get(line, 0) + 1
        for line, number in checks.items():
            yield f"{line}, in {number} check{'' if number == 1 else 's'}"
