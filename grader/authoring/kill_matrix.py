"""The kill matrix: every mutant graded, and which tasks caught it. Written by this command only.

grade dev matrix [ex01 ...] [--write] [--mutant NAME ...]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from grader import collection, engine, mutants
from grader.course.catalog import Exercise
from grader.errors import UsageError
from grader.harness import launcher as launchers
from grader.slurm.target import Where
from grader.verdicts import BLOCKED, FAIL, PASS, ExerciseResult

SIGN = {PASS: "", FAIL: "**caught**", BLOCKED: "blocked"}


def table_path(exercise: Exercise) -> Path:
    return mutants.HERE / exercise.id / "README.md"


def on_cluster(exercise: Exercise) -> dict:
    """Where its mutants run if they need a cluster: on the stand-in, which is quick."""
    return {"cluster": Where("stand-in")} if collection.at_once(exercise) else {}


def grade_all(
    exercise: Exercise,
    names: tuple[str, ...],
    seed: int | None = None,
    say: Callable[[str], None] = lambda text: None,
):
    """(mutant, result) of every mutant, or of those that are named, from one fork server."""
    launcher = launchers.choose()
    try:
        with ThreadPoolExecutor(3 if collection.at_once(exercise) else 1) as pool:

            def grade(mutant: mutants.Mutant):
                result = engine.grade(
                    exercise,
                    mutants.submission(exercise, mutant),
                    launcher,
                    seed=seed,
                    **on_cluster(exercise),
                )
                say(
                    f"{mutant.name:<34} {result.seconds:5.1f} s  "
                    + " ".join(f"{t.id}:{t.verdict}" for t in result.tasks)
                )
                return mutant, result

            yield from pool.map(
                grade, [m for m in mutants.load(exercise) if not names or m.name in names]
            )
    finally:
        launcher.close()


def row(mutant: mutants.Mutant, result: ExerciseResult) -> str:
    signs = [SIGN.get(t.verdict, t.verdict) for t in result.tasks]
    return f"| {mutant.name} | {mutant.mistake} | {mutant.fact} | {' | '.join(signs)} |"


def table(exercise: Exercise, rows: dict[str, str]) -> str:
    """The rows, by the mutants' names, in the mutants' order."""
    ids = [task.id for task in exercise.tasks]
    lines = [
        f"| mutant | its mistake | fact | {' | '.join(ids)} |",
        "|---|---|---|" + "---|" * len(ids),
    ]
    return "\n".join(lines + [rows[m.name] for m in mutants.load(exercise) if m.name in rows])


def written(exercise: Exercise) -> dict[str, str]:
    """The rows of the existing table."""
    path = table_path(exercise)
    lines = path.read_text().splitlines() if path.exists() else []
    return {
        line.split("|")[1].strip(): line
        for line in lines
        if line.startswith("| ") and not line.startswith("| mutant ")
    }


def main(exercise: Exercise, write: bool, seed: int | None, names: tuple[str, ...] = ()) -> int:
    if not exercise.solution.is_dir():
        raise UsageError("mutants are made from the solution, and this checkout has none")
    if unknown := set(names) - {m.name for m in mutants.load(exercise)}:
        raise UsageError(f"{exercise.id} has no mutant {', '.join(sorted(unknown))}")
    began = time.monotonic()
    rows = list(
        grade_all(exercise, names, seed, lambda text: print(text, file=sys.stderr, flush=True))
    )
    wrong = [o for mutant, result in rows for o in mutants.objections(exercise, mutant, result)]
    kept = written(exercise) if names else {}
    shown = kept | {mutant.name: row(mutant, result) for mutant, result in rows}
    text = table(exercise, shown)
    if write and not wrong:
        table_path(exercise).write_text(_page(exercise, text, len(shown)))
        print(f"wrote {table_path(exercise).relative_to(exercise.folder.parent)}", file=sys.stderr)
    elif not write:
        print(text)
    print(
        f"{len(rows)} mutants in {time.monotonic() - began:.0f} s, {len(wrong)} objections",
        file=sys.stderr,
    )
    for objection in wrong:
        print(objection, file=sys.stderr)
    return 1 if wrong else 0


def _page(exercise: Exercise, text: str, number: int) -> str:
    return f"""# {exercise.id}: {number} mutants, and the tasks that catch them

Written by `grade dev matrix {exercise.id} --write` (`make matrix`), from a run; don't edit.
"blocked" means that the task builds on one that caught the mutant. "fact" is the number of the
mistake in the list of real ones that the course was built from.

{text}
"""
