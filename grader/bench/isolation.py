"""What the sandbox costs a life and a grading, and whether verdicts stay right under load."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from grader import engine
from grader.bench.flakes import loaded
from grader.bench.show import out, table
from grader.course import catalog, submissions
from grader.harness import launcher as launchers
from grader.harness import sandbox
from grader.harness.lab import WORKLOAD
from grader.harness.launch import run_life
from grader.harness.launcher import Limits
from grader.harness.sandbox import LANDLOCK, NONE, Sandbox


def _available() -> list[Sandbox]:
    best = sandbox.choose()
    found = {one.kind: one for one in (Sandbox(NONE), Sandbox(LANDLOCK), best)}
    return [one for one in found.values() if one.kind == NONE or not sandbox._unavailable(one)]


def life_cost(rounds: int) -> None:
    """Time the same bare life in each sandbox in turn: the differences are the sandbox's cost."""
    kinds = _available()
    times: dict[str, list[float]] = {}
    launcher = launchers.choose(kind=kinds[-1].kind)
    script = WORKLOAD / "import_check.py"
    with tempfile.TemporaryDirectory(dir="/tmp") as top:
        module = Path(top) / "empty.py"
        module.write_text("")
        Path(top).chmod(0o755)
        try:
            for n in range(rounds + 1):
                for one in kinds:
                    folder = Path(top) / f"{one.kind}-{n}"
                    argv = ["--checkpoint", str(module), "--directory", str(folder / "ck")]
                    began = time.monotonic()
                    result = run_life(
                        launcher, folder, script, argv, None, Limits(), sandbox=one.job([top])
                    )
                    if result["status"]:
                        raise SystemExit((folder / "output").read_text())
                    if n:  # the first round warms up
                        times.setdefault(one.kind, []).append(time.monotonic() - began)
        finally:
            launcher.close()
    shown = table(
        f"A life that imports an empty file (median of {rounds})",
        "sandbox",
        "ms",
        "more than none, ms",
    )
    least = statistics.median(times[NONE])
    for kind, values in times.items():
        median = statistics.median(values)
        shown.add_row(kind, f"{1000 * median:.1f}", f"{1000 * (median - least):.1f}")
    out.print(shown)


def grading_cost(rounds: int) -> None:
    """Grade each solution with and without the sandbox, in turn."""
    kinds = [Sandbox(NONE), sandbox.choose()]
    shown = table(
        f"Grading a solution (median of {rounds})",
        "",
        *(f"{one.kind}, s" for one in kinds),
        "ratio",
    )
    for exercise in catalog.exercises().values():
        work = submissions.submission(exercise, None, solution=True)
        times: dict[str, list[float]] = {one.kind: [] for one in kinds}
        for _ in range(rounds):
            for one in kinds:
                launcher, began = launchers.choose(kind=one.kind), time.monotonic()
                try:
                    result = engine.grade(exercise, work, launcher, seed=1, sandbox=one)
                finally:
                    launcher.close()
                times[one.kind].append(time.monotonic() - began)
                if result.score != result.max_score:
                    raise SystemExit(
                        f"{exercise.id}: {[t.message for t in result.tasks if t.message]}"
                    )
        medians = [statistics.median(values) for values in times.values()]
        shown.add_row(
            exercise.id, *(f"{m:.1f}" for m in medians), f"{medians[-1] / medians[0]:.2f}"
        )
    out.print(shown)


def under_load(rounds: int, busy: int, names: list[str]) -> int:
    """Grade each solution `rounds` times while `busy` processes spin.

    Returns the number of gradings without full marks.
    """
    wrong = 0
    for exercise in [catalog.find(name) for name in names] or catalog.exercises().values():
        work, times = submissions.submission(exercise, None, solution=True), []
        for _ in range(rounds):
            with loaded(busy):
                result = engine.grade(exercise, work)
            times.append(result.seconds)
            if result.score != result.max_score:
                wrong += 1
                for task in result.tasks:
                    out.print(
                        f"{task.id} {task.verdict}, seed {result.seed}\n{task.message}"
                        if task.message
                        else "",
                        markup=False,
                    )
        spread = f"{min(times):.0f} to {max(times):.0f} s"
        out.print(
            f"{exercise.id}: {rounds} gradings alongside {busy} busy processes, {spread}; {wrong} "
            "without full marks so far"
        )
    return 1 if wrong else 0
