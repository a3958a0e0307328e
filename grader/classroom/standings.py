"""How a student stands: what came out of each exercise, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from grader.classroom.records import Results, Settings, Student
from grader.course.catalog import Exercise
from grader.verdicts import INCONCLUSIVE, ExerciseResult, TaskResult

NOT_HANDED_IN, NOT_YET = "not handed in", "not graded yet"


@dataclass
class Standing:
    """The results of one student."""

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


def standings(results: Results, settings: Settings) -> list[Standing]:
    return [standing(student, settings) for student in results.students]


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
