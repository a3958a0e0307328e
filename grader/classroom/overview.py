"""The page of a class: who passed what, how points are distributed, what was misunderstood."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

from grader import explain
from grader.classroom.records import Settings
from grader.classroom.standings import NOT_HANDED_IN, Standing, misunderstood, people
from grader.course import catalog
from grader.course.catalog import Exercise, Task
from grader.report import html
from grader.verdicts import BLOCKED, FAIL, INCONCLUSIVE, PASS

HERE = Path(__file__).resolve().parent
BINS = 10  # of the distribution of all points
SIGN = {PASS: "✓", FAIL: "✗", BLOCKED: "-", INCONCLUSIVE: "?"}


@dataclass(frozen=True)
class Cell:
    """A student's task in the matrix."""

    verdict: str
    sign: str
    link: str


@dataclass(frozen=True)
class Bar:
    label: str
    number: int
    share: float  # of the longest bar, in percent


@dataclass(frozen=True)
class Misunderstanding:
    code: str
    about: str
    summary: str
    number: int  # of students
    graded: int  # students whose work could have met it
    tasks: list[tuple[str, list[tuple[str, str]]]]  # task -> (student's name, link)


def page(standings: Sequence[Standing], settings: Settings) -> str:
    exercises = [catalog.find(name) for name in settings.exercises]
    graded = [one for one in standings if one.results]
    return html.render(
        HERE / "overview.html",
        HERE / "overview.css",
        standings=standings,
        graded=graded,
        exercises=exercises,
        settings=settings,
        cell=cell,
        link=link,
        words=[(v, SIGN[v]) for v in SIGN],
        total=sum(e.points for e in exercises),
        distributions=[
            (e, points(e, [one for one in standings if e.id in one.results])) for e in exercises
        ],
        all_points=distribution([one.score for one in graded], sum(e.points for e in exercises)),
        passed=passed(standings, exercises),
        misunderstandings=misunderstandings(standings, exercises),
        unproved=[one for one in standings if one.inconclusive],
        ungraded=[one for one in standings if one.student.problem or _lacks(one)],
        lacks=_lacks,
    )


def _lacks(one: Standing) -> list[tuple[str, str]]:
    """Exercises that were handed in and couldn't be graded."""
    return [(name, why) for name, why in one.missing.items() if why != NOT_HANDED_IN]


def link(one: Standing, target: str = "") -> str:
    report = f"students/{quote(one.student.id)}/report.html"
    return f"{report}#{target}" if target else report


def cell(one: Standing, exercise: Exercise, task: Task) -> Cell | None:
    found = one.task(exercise.id, task.id)
    if found is None:
        return None
    return Cell(found.verdict, SIGN[found.verdict], link(one, task.id))


def points(exercise: Exercise, those: Sequence[Standing]) -> list[Bar]:
    """How many students have how many of an exercise's points; only sums that somebody has."""
    return _bars(Counter(str(one.results[exercise.id].score) for one in those), key=int)


def distribution(scores: Sequence[int], most: int) -> list[Bar]:
    """How many students have how many of all points, in tenths."""
    edges = [round(most * n / BINS) for n in range(BINS + 1)]
    labels = [f"{low} to {high - 1 if high < most else high}" for low, high in pairwise(edges)]
    found = Counter(dict.fromkeys(labels, 0))
    for score in scores:
        found[labels[min(BINS - 1, score * BINS // most)]] += 1
    return _bars(found, key=labels.index)


def _bars(found: Counter[str], key: Callable[[str], int]) -> list[Bar]:
    longest = max(found.values(), default=0) or 1
    return [
        Bar(label, found[label], 100 * found[label] / longest) for label in sorted(found, key=key)
    ]


def passed(
    standings: Sequence[Standing], exercises: Sequence[Exercise]
) -> list[tuple[Task, int, int, float]]:
    """(task, how many passed it, of how many, in percent)."""
    rows = []
    for exercise in exercises:
        for task in exercise.tasks:
            found = [t for one in standings if (t := one.task(exercise.id, task.id))]
            proved = [t for t in found if t.verdict != INCONCLUSIVE]
            number = sum(t.verdict == PASS for t in proved)
            rows.append((task, number, len(proved), 100 * number / (len(proved) or 1)))
    return rows


def misunderstandings(
    standings: Sequence[Standing], exercises: Sequence[Exercise]
) -> list[Misunderstanding]:
    known = explain.explanations()
    found = []
    for code, about, tasks in misunderstood(standings, exercises):
        of = {task.partition(".")[0] for task in tasks}
        found.append(
            Misunderstanding(
                code,
                known[code].subject(about) if code in known else about,
                known[code].summary if code in known else "",
                len(people(tasks)),
                sum(1 for one in standings if of & one.results.keys()),
                [
                    (task, [(one.student.name, link(one, task)) for one in those])
                    for task, those in sorted(tasks.items())
                ],
            )
        )
    return found
