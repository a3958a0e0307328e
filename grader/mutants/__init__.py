"""Mutants: wrong solutions, each with one named mistake, and the task that must catch it.

They prove that the checks can fail, and that each fails for its own reason only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grader.course.catalog import Exercise, read_toml
from grader.course.submissions import Submission
from grader.verdicts import BLOCKED, FAIL, PASS, ExerciseResult

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Mutant:
    name: str
    mistake: str
    fact: int  # row in the list of real mistakes that it stands for
    task: str  # must fail
    edits: tuple[tuple[str, str, str], ...]  # (file, find, replace); file "": the exercise's module

    def apply(self, files: dict[str, bytes], module: str) -> dict[str, bytes]:
        """The solution's files with the mistake in them. ValueError if the solution has moved
        on.
        """
        for file, find, replace in self.edits:
            text = files[file or module].decode()
            if text.count(find) != 1:
                raise ValueError(
                    f"mutant {self.name}: {text.count(find)} places in the solution match {find!r}"
                )
            files = files | {file or module: text.replace(find, replace).encode()}
        return files


def load(exercise: Exercise) -> list[Mutant]:
    """The exercise's mutants; none in a student's checkout, where they'd give the solution away."""
    folder = exercise.folder.parent / "grader" / "mutants" / exercise.id
    return [
        Mutant(
            m["name"],
            m["mistake"],
            m["fact"],
            m["task"],
            tuple((e.get("file", ""), e["find"], e["replace"]) for e in m["edits"]),
        )
        for path in sorted(folder.glob("*.toml"))
        for m in read_toml(path)["mutant"]
    ]


def submission(exercise: Exercise, mutant: Mutant) -> Submission:
    files = mutant.apply(Submission(exercise.solution, exercise.module).files, exercise.module)
    work = Submission(exercise.solution, exercise.module, files)
    work.key = f"mutant {exercise.id} {mutant.name}"
    return work


def objections(exercise: Exercise, mutant: Mutant, result: ExerciseResult) -> list[str]:
    """What is wrong with how a mutant was graded: it must fail its task, and no independent one."""
    wrong = []
    for task in result.tasks:
        depends = mutant.task in _all_needs(exercise, task.id)
        if task.id == mutant.task and task.verdict != FAIL:
            wrong.append(f"{mutant.name}: {task.id} should catch it, but says {task.verdict}")
        elif task.id != mutant.task and not (
            task.verdict == PASS or (depends and task.verdict == BLOCKED)
        ):
            wrong.append(
                f"{mutant.name}: {task.id} says {task.verdict}, though it has nothing to do "
                f"with it: {task.message}"
            )
    return wrong


def _all_needs(exercise: Exercise, task_id: str) -> set[str]:
    needs = set(exercise.task(task_id).needs)
    return needs.union(*(_all_needs(exercise, n) for n in needs)) if needs else needs
