"""`grade dev check`: finds what doesn't agree within the course, one line for each problem.

    path: what is wrong; what to do

It grades nothing, so it takes seconds. With --grade it also grades starters and solutions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from grader import mutants
from grader.authoring import amalgamation, boundary, integrations, samples, titles
from grader.course import catalog, derive, submissions
from grader.course.catalog import ROOT, Exercise, read_toml
from grader.course.submissions import Submission
from grader.errors import UsageError
from grader.mutants.shown import SHOWN
from grader.verdicts import PASS, ExerciseResult

POINTS = {"ex01": 20, "ex02": 30, "ex03": 25, "ex04": 25}
FIELDS = ("title", "points", "functions", "hints")
FILES = {"README.md", "exercise.toml", "notebook.py", "notebook.ipynb", "solution", "starter"}
# what git ignores: caches, and versions that `grade reset` has kept
IGNORED = re.compile(r"\..*|__pycache__|starter\.kept-.*")


def problems(root: Path = ROOT) -> list[str]:
    unreadable = list(_incomplete(root))
    if unreadable:
        return unreadable
    exercises = list(catalog.exercises(root).values())
    if missing := [e.id for e in exercises if not e.solution.is_dir()]:
        raise UsageError(f"this checkout has no solutions of {', '.join(missing)} to check against")
    checks = (
        _tasks,
        _points,
        _starters,
        _strays,
        titles.problems,
        _snapshots,
        samples.problems,
        integrations.problems,
        _mutants,
        boundary.problems,
        amalgamation.problems,
    )
    return [problem for check in checks for problem in check(root, exercises)]


# --- exercise.toml --------------------------------------------------------------------------------


def _incomplete(root: Path) -> Iterator[str]:
    for path in sorted(root.glob("ex[0-9][0-9]-*/exercise.toml")):
        for number, task in enumerate(read_toml(path)["tasks"], 1):
            for field in FIELDS:
                if field not in task:
                    yield f"{path.relative_to(root)}: task {number} has no {field}; add the field"


def _tasks(root: Path, exercises: list[Exercise]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for exercise in exercises:
        where = _toml(root, exercise)
        code = (exercise.solution / exercise.module).read_text()
        scripts = "".join(path.read_text() for path in exercise.solution.glob("*.sbatch"))
        for task in exercise.tasks:
            if task.points < 1:
                yield f"{where}: {task.id} is worth {task.points} points; give it some"
            # a task may ask for a script, or for what the tasks that it builds on have made
            script = f"# Task {task.id.removeprefix('ex0')}: " in scripts
            if not task.functions and not task.needs and not script:
                yield f"{where}: {task.id} names no function; say what students write"
            for name in task.functions:
                if not re.search(rf"^(def|class) {re.escape(name)}\b", code, re.M):
                    yield f"{where}: {task.id} names {name}, which the solution lacks; correct it"
            if not task.hints:
                yield f"{where}: {task.id} has no hints; write a ladder of them"
            for number, hint in enumerate(task.hints, 1):
                if not hint.strip():
                    yield f"{where}: hint {number} of {task.id} is empty; write it"
                elif hint in seen:
                    yield (
                        f"{where}: hint {number} of {task.id} is {seen[hint]} again; each rung "
                        "must say more"
                    )
                seen.setdefault(hint, f"hint {number} of {task.id}")


def _points(root: Path, exercises: list[Exercise]) -> Iterator[str]:
    for exercise in exercises:
        wanted = POINTS.get(exercise.id, 0)
        if exercise.points != wanted:
            yield (
                f"{_toml(root, exercise)}: the tasks of {exercise.id} are worth {exercise.points} "
                f"points together; make it {wanted}, of 100 in all"
            )


def _toml(root: Path, exercise: Exercise) -> Path:
    return (exercise.folder / "exercise.toml").relative_to(root)


# --- files ----------------------------------------------------------------------------------------


def _starters(root: Path, exercises: list[Exercise]) -> Iterator[str]:
    for exercise in exercises:
        try:
            derived = derive.starter_files(exercise)
        except UsageError as e:
            where = exercise.starter.relative_to(root)
            yield f"{where}: can't be derived; correct the markers: {e}"
            continue
        for folder in (exercise.starter, exercise.handed_out):
            for name, data in derived.items():
                path = folder / name
                if not path.exists() or path.read_bytes() != data:
                    where = path.relative_to(root)
                    yield f"{where}: isn't derived from its solution; run grade dev derive"
            for path in _files(folder):
                if str(path.relative_to(folder)) not in derived:
                    yield f"{path.relative_to(root)}: no solution has this file; remove it"


def _strays(root: Path, exercises: list[Exercise]) -> Iterator[str]:
    for exercise in exercises:
        strays = [p for p in exercise.folder.iterdir() if p.name not in FILES]
        strays += [p for p in _files(exercise.solution) if p.suffix not in derive.DERIVED]
        for path in sorted(strays):
            if not IGNORED.fullmatch(path.name):
                yield f"{path.relative_to(root)}: isn't part of an exercise; remove it"


def _snapshots(root: Path, exercises: list[Exercise]) -> Iterator[str]:
    folder = root / "grader" / "tests" / "snapshots"
    expected = set()
    for exercise in exercises:
        known = {mutant.name for mutant in mutants.load(exercise)}
        expected.add(folder / exercise.id / "notebook.sha256")
        for name in SHOWN.get(exercise.id, []):
            path = folder / exercise.id / f"{name}.txt"
            expected.add(path)
            if name not in known:
                yield (
                    f"grader/mutants/shown.py: {exercise.id} has no mutant {name}; take it out of "
                    "SHOWN"
                )
            elif not path.exists():
                yield (
                    f"{path.relative_to(root)}: the snapshot is missing; write it: "
                    'UPDATE_SNAPSHOTS=1 make test ARGS="-k snapshot"'
                )
    for path in _files(folder):
        if path not in expected:
            yield (
                f"{path.relative_to(root)}: isn't the snapshot of a mutant in SHOWN "
                "(grader/mutants/shown.py); remove it, or add its mutant there"
            )


def _files(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(
        path
        for path in found
        if not any(IGNORED.fullmatch(part) for part in path.relative_to(folder).parts)
    )


# --- mutants --------------------------------------------------------------------------------------


def _mutants(root: Path, exercises: list[Exercise]) -> Iterator[str]:
    page = (root / "docs" / "mistakes.md").read_text()
    listed = {int(number) for number in re.findall(r"^### (\d+)$", page, re.M)}
    for exercise in exercises:
        where = Path("grader/mutants") / exercise.id
        files = Submission(exercise.solution, exercise.module).files
        ids = [task.id for task in exercise.tasks]
        for mutant in mutants.load(exercise):
            try:
                mutant.apply(files, exercise.module)
            except (ValueError, KeyError) as e:
                yield f"{where}: {e}; follow the solution"
            if mutant.task not in ids:
                yield (
                    f"{where}: mutant {mutant.name} belongs to {mutant.task}, which isn't a task; "
                    "name the one that catches it"
                )
            if mutant.fact not in listed:
                yield (
                    f"{where}: mutant {mutant.name} refers to mistake {mutant.fact}, which isn't "
                    "in docs/mistakes.md; add it there"
                )


# --- graded ---------------------------------------------------------------------------------------

Grade = Callable[[Exercise, Submission], ExerciseResult]


def graded(exercises: list[Exercise], grade: Grade) -> Iterator[str]:
    """Starters must score nothing, and solutions everything."""
    for exercise in exercises:
        folder = exercise.folder.name
        for task in grade(exercise, submissions.submission(exercise, None)).tasks:
            if task.score:
                yield (
                    f"{folder}/starter: scores {task.score} at {task.id}; its checks ask too "
                    "little, or the starter gives the answer"
                )
        solution = submissions.submission(exercise, None, solution=True)
        for task in grade(exercise, solution).tasks:
            if task.verdict != PASS:
                first = task.message.partition("\n")[0]
                yield (
                    f"{folder}/solution: {task.id} says {task.verdict} ({first}); grade "
                    f"{exercise.id} --solution shows more"
                )


def _graded_here() -> Iterator[str]:
    from grader import engine
    from grader.authoring.kill_matrix import on_cluster
    from grader.harness import launcher as launchers

    launcher = launchers.choose()
    try:
        yield from graded(
            list(catalog.exercises().values()),
            lambda exercise, work: engine.grade(exercise, work, launcher, **on_cluster(exercise)),
        )
    finally:
        launcher.close()


def main(grading: bool) -> int:
    found = 0
    for problem in problems():
        print(problem)
        found += 1
    if grading and not found:
        for problem in _graded_here():
            print(problem, flush=True)
            found += 1
    print(f"{found} problems" if found else "no problems")
    return 1 if found else 0
