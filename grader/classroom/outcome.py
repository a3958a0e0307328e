"""What came out of a class: each student's files, the table for a spreadsheet, the log."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from grader import explain
from grader.classroom.grading import is_inconclusive
from grader.classroom.records import Results, Settings, Student
from grader.course import catalog
from grader.course.catalog import Exercise
from grader.files import write_atomically
from grader.report import html, output
from grader.report.logs import escaped
from grader.report.message import LABEL
from grader.verdicts import INCONCLUSIVE, ExerciseResult, TaskResult

# a spreadsheet takes a cell that begins so for a formula
FORMULA = ("=", "+", "-", "@", "\t", "\r")

NOT_HANDED_IN, NOT_YET = "not handed in", "not graded yet"
TRIED = {
    "network": "tried to reach the network: {what}",
    "read": "tried to read a file that isn't its own: {what}",
    "write": "tried to write outside its folders: {what}",
    "signal": "tried to send signal {what}",
    "reports": "opened the file of the grader's reports",
    "interpreter": "used the interpreter's hooks: {what}",
}


@dataclass
class Standing:
    """What came out for one student."""

    student: Student
    results: dict[str, ExerciseResult] = field(default_factory=dict)
    # exercise -> why there is no result, though there should be
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Everything that was handed in is graded, and something was proved for each task."""
        lacking = [why for why in self.missing.values() if why != NOT_HANDED_IN]
        return not (lacking or self.inconclusive or self.student.problem)

    @property
    def inconclusive(self) -> list[str]:
        """The tasks for which nothing was proved."""
        return [t.id for r in self.results.values() for t in r.tasks if t.verdict == INCONCLUSIVE]

    @property
    def score(self) -> int:
        return sum(r.score for r in self.results.values())

    def task(self, exercise: str, id: str) -> TaskResult | None:
        result = self.results.get(exercise)
        return next((t for t in result.tasks if t.id == id), None) if result else None


def standing(student: Student, settings: Settings) -> Standing:
    found = Standing(student)
    for exercise in settings.exercises:
        if graded := student.graded(exercise, settings):
            found.results[exercise] = graded.result
        elif exercise in student.problems:
            found.missing[exercise] = student.problems[exercise]
        elif exercise in student.digests:
            found.missing[exercise] = NOT_YET
        elif not student.problem:
            found.missing[exercise] = NOT_HANDED_IN
    return found


def write_student(of: Standing) -> None:
    """result.json, report.html and log.txt: what the student may get."""
    folder, results = of.student.folder, list(of.results.values())
    write_atomically(folder / "result.json", output.json_text(results))
    write_atomically(folder / "report.html", html.page(results, explain.explanations()))
    write_atomically(folder / "log.txt", "\n".join(_told(of)) + "\n")


def _told(of: Standing) -> Iterator[str]:
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
    from grader.classroom.overview import page

    standings = [standing(student, settings) for student in results.students]
    write_atomically(results.folder / "results.csv", table(standings, settings))
    write_atomically(results.folder / "instructor.log", "".join(_log(standings)))
    write_atomically(results.folder / "index.html", page(standings, settings))
    return standings


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
            [safe(cell) for cell in cells]
            + [one.score if not one.student.problem else "", sum(e.points for e in exercises)]
            + [_points(one.results.get(e.id)) for e in exercises]
            + [_points(one.task(e.id, t.id)) for e, t in tasks]
            + [" ".join(one.inconclusive), safe(_missing(one))]
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


def safe(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    text = " ".join(text.split())
    return f"'{text}" if text.startswith(FORMULA) else text


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


def misunderstood(
    standings: Sequence[Standing], exercises: Sequence[Exercise]
) -> list[tuple[str, str, dict[str, list[Standing]]]]:
    """(code, what it is about, task -> who met it), the most frequent first."""
    found: dict[tuple[str, str], dict[str, list[Standing]]] = {}
    for one in standings:
        for exercise in exercises:
            result = one.results.get(exercise.id)
            for task in result.tasks if result else []:
                if task.verdict == INCONCLUSIVE:
                    continue
                for cause in task.evidence.get("causes", []):
                    # of a crash, "RuntimeError:checkpoint.py:41": the line is a student's own
                    about = cause["about"].partition(":")[0]
                    tasks = found.setdefault((cause["code"], about), {})
                    tasks.setdefault(task.id, []).append(one)
    ranked = sorted(found.items(), key=lambda item: (-len(people(item[1])), item[0]))
    return [(code, about, tasks) for (code, about), tasks in ranked]


def people(tasks: dict[str, list[Standing]]) -> set[str]:
    return {one.student.id for those in tasks.values() for one in those}
