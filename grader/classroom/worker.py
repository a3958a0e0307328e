"""Grades one exercise of one student in its own process: python -m grader.classroom.worker.

It writes a complete record of the result, or none. If there is none, the process that started it
decides what to do.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from grader import engine
from grader.classroom.contents import digest
from grader.classroom.records import Graded, Results, Settings
from grader.course import catalog
from grader.errors import UsageError
from grader.harness import privileges, sandbox
from grader.harness.launcher import choose
from grader.interrupt import Interrupted, end_in_order
from grader.processes import reap_descendants


@dataclass(frozen=True)
class Unit:
    """One exercise of one student, and how to grade it."""

    results: str  # the results folder
    student: str
    exercise: str
    jobs: int  # processes at a time
    seconds: float  # for the whole grading
    sandbox: str = "require"
    cluster: str = ""  # for exercise 4: slurm, stand-in; empty: what the machine has

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "grader.classroom.worker", json.dumps(asdict(self))]


def grade(unit: Unit) -> Graded:
    results = Results(Path(unit.results))
    settings = Settings.of(results.folder)
    if settings is None:
        raise UsageError(f"{results.folder} holds no class.json")
    student, exercise = results.student(unit.student), catalog.find(unit.exercise)
    work = student.submission(exercise)
    if digest(work.files) != student.digests[exercise.id]:
        raise UsageError(f"{work.folder} was changed after it had been handed in")
    key = student.key(exercise.id, settings)
    confined = sandbox.choose(unit.sandbox)
    cluster = None
    if unit.cluster:
        from grader.checks.ex04.cluster_runs import Where

        cluster = Where(unit.cluster)
    launcher = choose(None, confined.kind)
    with closing(launcher):
        result = engine.grade(
            exercise,
            work,
            launcher,
            seed=settings.seed,
            jobs=unit.jobs,
            seconds=unit.seconds,
            sandbox=confined,
            cluster=cluster,
            keep_history=True,
            logs=student.folder / "logs",
            logs_below=student.folder,
        )
    return Graded(key, result)


def main() -> None:
    try:
        end_in_order()
        privileges.hide_from_others()
        reap_descendants()
        unit = Unit(**json.loads(sys.argv[1]))
        record = Results(Path(unit.results)).student(unit.student).record(unit.exercise)
        grade(unit).write(record)
    except UsageError as e:
        print(f"grade: {e}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as e:
        sys.exit(128 + e.number)


if __name__ == "__main__":
    main()
