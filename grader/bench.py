"""`make bench`: the grader's own figures, as ratios within one run.

    python -m grader.bench                  launch and grading times
    python -m grader.bench --flakes 20      ... and 20 gradings of the solution and of every mutant
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from grader import course, engine, mutants
from grader.harness import launcher as launchers
from grader.harness.lab import WORKLOAD
from grader.harness.launcher import HERE, ForkServer, Limits, Plain
from grader.harness.life import life_environment, run_life

out = Console(highlight=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for n, column in enumerate(columns):
        table.add_column(column, justify="left" if n == 0 else "right")
    return table


# --- launch to first step ----------------------------------------------------------------------------


def _first_step(folder: Path) -> float:
    for line in (folder / "events").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "step":
            return event["t"]
    raise click.ClickException(f"no training step in {folder}: {(folder / 'stderr').read_text()[-500:]}")


def launch_times(rounds: int) -> None:
    script, argv = WORKLOAD / "train_epochs.py", ["--bare", "--checkpoint", "-", "--directory", "DIR"]
    server, times = ForkServer(), {"fork server": [], "python train.py": []}
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
    table = _table(f"Launch to first training step (median of {rounds})", "", "seconds", "times as long")
    fast = statistics.median(times["fork server"])
    for name, values in times.items():
        table.add_row(name, f"{statistics.median(values):.3f}", f"{statistics.median(values) / fast:.1f}")
    out.print(table)


def _plain_python(folder: Path, script: Path, argv: list[str]) -> None:
    """The same script in an interpreter of its own, with nothing of ours around it but its surroundings."""
    (folder / "t").mkdir(parents=True)
    job = {
        "script": str(script),
        "argv": argv,
        "cwd": str(folder / "t"),
        "env": life_environment(str(folder / "t")),
        "limits": Limits().__dict__,
        **{name: str(folder / name) for name in ("stdout", "stderr", "events", "stack")},
    }
    (folder / "job.json").write_text(json.dumps(job))
    subprocess.run([sys.executable, "-I", str(HERE / "child.py"), str(folder / "job.json")], check=True, env=job["env"])  # it makes a session of its own


# --- a whole grading ---------------------------------------------------------------------------------


def grade_times(exercise: course.Exercise, plain: bool) -> None:
    table = _table(f"Grading {exercise.id}'s solution, from nothing to the verdict", "", "seconds", "times as long", "points")
    cores, work = engine.default_jobs(), course.submission(exercise, None, solution=True)
    rows = [("fork server", ForkServer, jobs) for jobs in sorted({1, 2, cores, 2 * cores})]
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
        table.add_row(f"{name}, --jobs {jobs}", f"{seconds:.1f}", f"{seconds / base:.2f}", f"{result.score}/{result.max_score}")
    out.print(table)
    out.print(f"{cores} cores; {result.lives} processes\n")


# --- flakes ------------------------------------------------------------------------------------------


def _spin() -> None:
    while True:
        pass


@contextmanager
def loaded(cores: int):
    """Every core busy with something else."""
    spinners = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(cores)]
    for s in spinners:
        s.start()
    try:
        yield
    finally:
        for s in spinners:
            s.kill()
            s.join()


def flakes(exercise: course.Exercise, rounds: int) -> int:
    """Grade the solution and every mutant (its own task) `rounds` times, half of them under load."""
    subjects = [("solution", None, lambda: course.submission(exercise, None, solution=True))]
    subjects += [(m.name, [exercise.task(m.task).number], lambda m=m: mutants.submission(exercise, m)) for m in mutants.load(exercise)]
    seen: dict[str, Counter] = {name: Counter() for name, *_ in subjects}
    began, launcher = time.monotonic(), launchers.choose()
    try:
        for half, load in ((range(rounds // 2), False), (range(rounds // 2, rounds), True)):
            with loaded(engine.default_jobs() if load else 0):
                for n in half:
                    for name, tasks, make in subjects:
                        result = engine.grade(exercise, make(), launcher, tasks=tasks)
                        verdicts = " ".join(f"{t.id}:{t.verdict}" for t in result.tasks)
                        seen[name][verdicts] += 1
                        if len(seen[name]) > 1:
                            out.print(f"[red]{name}, seed {result.seed}{', loaded' if load else ''}: {verdicts}[/red]")
                    out.print(f"round {n + 1} of {rounds}{', both cores loaded' if load else ''}: {time.monotonic() - began:.0f} s", style="dim")
    finally:
        launcher.close()
    wrong = [f"{name}: {dict(c)}" for name, c in seen.items() if len(c) != 1]
    wrong += [f"{name}: never caught" for name, c in seen.items() if name != "solution" and not all("fail" in v for v in c)]
    number = sum(sum(c.values()) for c in seen.values())
    out.print(f"{number} gradings of {len(subjects)} submissions: {len(wrong)} whose verdict changed or was wrong")
    for line in wrong:
        out.print(f"  {line}")
    return 1 if wrong else 0


@click.command()
@click.argument("name", default="ex01")
@click.option("--rounds", default=5, help="Launches of each kind.")
@click.option("--plain/--no-plain", default=True, help="Also grade with plain processes (a minute).")
@click.option("--flakes", "flake_rounds", default=0, help="Grade the solution and every mutant so many times.")
def main(name, rounds, plain, flake_rounds):
    exercise = course.find(name)
    launch_times(rounds)
    grade_times(exercise, plain)
    sys.exit(flakes(exercise, flake_rounds) if flake_rounds else 0)


if __name__ == "__main__":
    main()
