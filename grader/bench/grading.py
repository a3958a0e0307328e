"""Measures how soon a life trains its first step, and how long a whole grading takes."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import click

from grader import engine, explain, mutants
from grader.bench.show import out, table
from grader.course import catalog, submissions
from grader.harness.lab import WORKLOAD
from grader.harness.launch import life_environment, run_life
from grader.harness.launcher import HERE, ForkServer, Limits, Plain
from grader.harness.sandbox import NONE, Sandbox
from grader.report import history, html

# --- launch to first step -------------------------------------------------------------------------


def _first_step(folder: Path) -> float:
    for line in (folder / "events").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "step":
            return event["t"]
    raise click.ClickException(
        f"no training step in {folder}: {(folder / 'stderr').read_text()[-500:]}"
    )


def launch_times(rounds: int) -> None:
    script, argv = (
        WORKLOAD / "ex01/train_epochs.py",
        ["--bare", "--checkpoint", "-", "--directory", "DIR"],
    )
    server = ForkServer()
    times: dict[str, list[float]] = {"fork server": [], "python train.py": []}
    with tempfile.TemporaryDirectory() as top:
        try:
            for n in range(rounds + 1):
                for name in times:
                    folder = Path(top) / f"{name.replace(' ', '-')}-{n}"
                    argv[-1] = str(folder / "ck")
                    began = time.monotonic()
                    if name == "fork server":
                        run_life(server, folder, script, argv, None, Limits())
                    else:
                        _plain_python(folder, script, argv)
                    if n:  # the first round warms the caches of both
                        times[name].append(_first_step(folder) - began)
        finally:
            server.close()
    shown = table(
        f"Launch to first training step (median of {rounds})", "", "seconds", "times as long"
    )
    fast = statistics.median(times["fork server"])
    for name, values in times.items():
        shown.add_row(
            name, f"{statistics.median(values):.3f}", f"{statistics.median(values) / fast:.1f}"
        )
    out.print(shown)


def _plain_python(folder: Path, script: Path, argv: list[str]) -> None:
    """The same script in a plain interpreter, with only its environment from us."""
    (folder / "t").mkdir(parents=True)
    job: dict[str, Any] = {
        "script": str(script),
        "argv": argv,
        "cwd": str(folder / "t"),
        "env": life_environment(str(folder / "t")),
        "limits": Limits().__dict__,
        "may_write": [str(folder)],
        "sandbox": Sandbox(NONE).job(),
        **{name: str(folder / name) for name in ("output", "events", "stack")},
    }
    (folder / "job.json").write_text(json.dumps(job))
    # it starts its own session
    subprocess.run(
        [sys.executable, "-I", str(HERE / "inside" / "child.py"), str(folder / "job.json")],
        check=True,
        env=job["env"],
    )


# --- a whole grading ------------------------------------------------------------------------------


def grade_times(exercise: catalog.Exercise, plain: bool) -> None:
    shown = table(
        f"Grading {exercise.id}'s solution, from nothing to the verdict",
        "",
        "seconds",
        "times as long",
        "points",
    )
    cores, work = engine.default_jobs(), submissions.submission(exercise, None, solution=True)
    rows: list[tuple[str, type[ForkServer] | type[Plain], int]] = [
        ("fork server", ForkServer, jobs) for jobs in sorted({1, 2, cores, 2 * cores})
    ]
    rows += [("plain processes", Plain, cores)] if plain else []
    base = None
    for name, make, jobs in rows:
        launcher, began = make(), time.monotonic()
        try:
            result = engine.grade(exercise, work, launcher, seed=1, jobs=jobs)
        finally:
            launcher.close()
        seconds = time.monotonic() - began
        base = base or seconds
        shown.add_row(
            f"{name}, --jobs {jobs}",
            f"{seconds:.1f}",
            f"{seconds / base:.2f}",
            f"{result.score}/{result.max_score}",
        )
    out.print(shown)
    out.print(f"{cores} cores; {result.lives} processes\n")


# --- its page -------------------------------------------------------------------------------------


def page_cost(exercise: catalog.Exercise) -> None:
    """Of one mutant for each task: what `grade --html` adds to the grading, and its size."""
    first = {m.task: m for m in reversed(mutants.load(exercise))}
    if not first:
        return
    spent, of_task = [0.0], history.of_task

    def timed(*arguments: Any) -> list[dict[str, Any]]:
        began = time.monotonic()
        try:
            return of_task(*arguments)
        finally:
            spent[0] += time.monotonic() - began

    shown = table(
        f"grade --html, of one mutant of {exercise.id} a task",
        "",
        "grading, s",
        "history, s",
        "page, s",
        "page, KB",
    )
    launcher = ForkServer()
    with contextlib.closing(launcher), mock.patch.object(history, "of_task", timed):
        for task in exercise.tasks:
            if mutant := first.get(task.id):
                work, spent[0] = mutants.submission(exercise, mutant), 0.0
                numbers = [task.number]
                result = engine.grade(
                    exercise, work, launcher, seed=1, tasks=numbers, keep_history=True
                )
                began = time.monotonic()
                page = html.page([result], explain.explanations())
                made = time.monotonic() - began
                shown.add_row(
                    mutant.name,
                    f"{result.seconds:.1f}",
                    f"{spent[0]:.2f}",
                    f"{made:.2f}",
                    f"{len(page.encode()) / 1000:.0f}",
                )
    out.print(shown)
