"""One call of `grade class`: reads submissions, grades what isn't graded, prints progress."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from grader.classroom import contents, handed_in
from grader.classroom.grading import Clock, Work, alone, open_work
from grader.classroom.records import Graded, Results, Settings, Student, course_version
from grader.classroom.result_files import write_class, write_student
from grader.classroom.standings import NOT_YET, Standing, standing
from grader.classroom.worker import Unit
from grader.course import catalog
from grader.course.catalog import Exercise
from grader.errors import UsageError
from grader.report import html
from grader.report.logs import escaped
from grader.verdicts import INCONCLUSIVE

Grade = Callable[[Sequence[Work], "Progress"], None]


@dataclass
class Session:
    out: Console
    submissions: Path
    folder: Path  # for the results
    exercises: tuple[str, ...]  # empty: those that were handed in
    seed: int | None
    regrade: bool
    retry_inconclusive: bool
    at_once: int
    unit: Callable[[Student, str], Unit]
    grade: Grade

    def run(self) -> list[Standing]:
        """Everything; returns how each student stands. Raises UsageError."""
        if not self.submissions.exists():  # before anything is made
            raise UsageError(f"no such folder of submissions: {self.submissions}")
        wanted = [catalog.find(name) for name in self.exercises]
        where, to = self.submissions.resolve(), self.folder.resolve()
        if to == where or where in to.parents:
            raise UsageError(f"{self.folder} is inside {self.submissions}; choose another --out")
        if where.is_dir() and to in where.parents and (to / "class.json").exists():
            raise UsageError(f"{self.submissions} is inside the results folder {self.folder}")
        results = Results(self.folder)
        with alone(self.folder):
            before = self._check_settings()
            students, settings = self._take(results, before, wanted)
            todo = open_work(
                results,
                settings,
                students,
                self.unit,
                retry_inconclusive=self.retry_inconclusive,
                regrade=self.regrade,
            )
            progress = Progress(self.out, settings, students, todo, self.at_once)
            try:
                self.grade(todo, progress)
            finally:
                # what is graded by now is told, also if we are interrupted
                standings = write_class(results, settings)
        self._summary(standings, settings)
        return standings

    def _check_settings(self) -> Settings | None:
        before = Settings.of(self.folder)
        if before is None:
            return None
        if self.seed is not None and self.seed != before.seed and not self.regrade:
            raise UsageError(
                f"{self.folder} was graded with seed {before.seed}, and one seed for all is fair; "
                "--regrade grades everything again, or --out names another folder"
            )
        if before.course != course_version() and not self.regrade:
            raise UsageError(
                f"{self.folder} was graded by another version of the course; --regrade grades "
                "everything again with this one, or --out names another folder"
            )
        return before

    def _take(
        self, results: Results, before: Settings | None, wanted: list[Exercise]
    ) -> tuple[list[Student], Settings]:
        """Copy everything that was handed in to the results, and settle what is graded."""
        for left in self.folder.glob(".unpacked-*"):  # by a call that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=self.folder) as scratch:
            found = handed_in.find(self.submissions, Path(scratch))
            exercises = wanted or list(catalog.exercises().values())
            students, seen = [], set()
            for one in found:
                held = contents.read(one, exercises, Path(scratch))
                students.append(results.take(one, held, exercises))
                seen |= held.files.keys() | held.problems.keys()
        if not seen and not before:
            shutil.rmtree(results.folder / "students")
            names = ", ".join(e.module for e in exercises)
            raise UsageError(f"{self.submissions} holds none of the exercises' files ({names})")
        settings = self._settings(before, seen, wanted)
        settings.write(results.folder)
        self.out.print(
            f"{len(students)} submissions, {', '.join(settings.exercises)}, seed {settings.seed}; "
            f"results go to {results.folder}"
        )
        for student in students:
            for text in _unreadable(student):
                self.out.print("[red]not graded[/red]  ", end="")
                self.out.print(escaped(f"{student.name}: {text}"), markup=False)
        return students, settings

    def _settings(
        self, before: Settings | None, seen: set[str], wanted: list[Exercise]
    ) -> Settings:
        names = {e.id for e in wanted} or seen
        known = set(before.exercises) if before else set()
        seed = self.seed if self.seed is not None else before.seed if before else None
        if seed is None:
            seed = random.SystemRandom().randrange(2**31)
        return Settings(seed, tuple(sorted(names | known)), course_version())

    def _summary(self, standings: list[Standing], settings: Settings) -> None:
        graded = [one for one in standings if one.results]
        unproved = [one for one in standings if one.inconclusive]
        most = sum(catalog.find(name).points for name in settings.exercises)
        self.out.print()
        if graded:
            scores = sorted(one.score for one in graded)
            self.out.print(
                f"{len(graded)} of {len(standings)} students graded; of {most} points, "
                f"median {scores[len(scores) // 2]}, {scores[0]} to {scores[-1]}"
            )
        if unproved:
            names = ", ".join(one.student.name for one in unproved[:5])
            more = f" and {len(unproved) - 5} more" if len(unproved) > 5 else ""
            self.out.print(
                f"[bold magenta]INCONCLUSIVE[/bold magenta] for {len(unproved)}: ", end=""
            )
            again = "--retry-inconclusive grades them again"
            self.out.print(escaped(f"{names}{more}; {again}"), markup=False)
        for name in ("index.html", "results.csv", "instructor.log"):
            self.out.print(f"  {self.folder / name}", markup=False)


def _unreadable(student: Student) -> list[str]:
    if student.problem:
        return [student.problem]
    return [f"{exercise}: {why}" for exercise, why in student.problems.items()]


class Progress:
    """Tells of each exercise that is graded, and when all will be."""

    def __init__(
        self,
        out: Console,
        settings: Settings,
        students: Sequence[Student],
        todo: Sequence[Work],
        at_once: int,
    ):
        self.out, self.settings = out, settings
        self.clock = Clock(todo, at_once)
        self.total = sum(len(work.twins) for work in todo)
        self.number = 0
        open_for = {twin.id for work in todo for twin in work.twins}
        ready = [s for s in students if s.digests and s.id not in open_for]
        if ready:
            self.out.print(f"{len(ready)} are graded already")
        for student in ready:
            self._write_report(student)

    def done(self, work: Work, graded: Graded) -> None:
        self.clock.done(work.unit.exercise, graded.result.seconds)
        for twin in work.twins:
            self.number += 1
            self.out.print(escaped(self._line(twin, work, graded)), markup=False)
            self._write_report(twin)

    def _line(self, student: Student, work: Work, graded: Graded) -> str:
        result = graded.result
        points = f"{result.score}/{result.max_score}"
        unproved = [t.id for t in result.tasks if t.verdict == INCONCLUSIVE]
        said = f"  inconclusive: {', '.join(unproved)}" if unproved else ""
        left = self.clock.estimate()
        rest = f"  about {html.seconds(left)} left" if left and self.number < self.total else ""
        count = f"[{self.number:>{len(str(self.total))}}/{self.total}]"
        return f"{count}  {result.id}  {points:>5}  {student.name}{said}{rest}"

    def _write_report(self, student: Student) -> None:
        """Write the student's report once everything is graded."""
        now = standing(student, self.settings)
        if now.results and NOT_YET not in now.missing.values():
            write_student(now)
