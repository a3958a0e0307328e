"""Does a submission get the same verdict every time, on a quiet machine and on a busy one?"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from grader import engine, mutants
from grader.bench.show import out
from grader.course import catalog, submissions
from grader.harness import launcher as launchers


def _spin() -> None:
    while True:
        pass


@contextmanager
def loaded(cores: int):
    """Keep every core busy with something else."""
    spinners = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(cores)]
    for s in spinners:
        s.start()
    try:
        yield
    finally:
        for s in spinners:
            s.kill()
            s.join()


def _remembered(record: Path | None) -> dict:
    if record is None or not record.exists():
        return {"quiet rounds": 0, "busy rounds": 0, "seen": {}}
    return json.loads(record.read_text())


def run(
    exercise: catalog.Exercise, rounds: int, load: str = "half", record: Path | None = None
) -> int:
    """Grade the solution and every mutant (its own task) `rounds` times; `load`: all, half or none.

    All rounds take hours. Those in `record` (a JSON file, rewritten after every round) count too,
    so you can do a few at a time, and continue after an interruption.
    """
    quiet = {"none": rounds, "all": 0, "half": rounds // 2}[load]
    subjects: list[tuple[str, list[int] | None, Callable[[], submissions.Submission]]] = [
        ("solution", None, lambda: submissions.submission(exercise, None, solution=True))
    ]
    subjects += [
        (m.name, [exercise.task(m.task).number], partial(mutants.submission, exercise, m))
        for m in mutants.load(exercise)
    ]
    known = _remembered(record)
    seen: dict[str, Counter] = {name: Counter(known["seen"].get(name)) for name, *_ in subjects}
    began, launcher, cores = time.monotonic(), launchers.choose(), engine.default_jobs()

    def grade(subject, busy: bool) -> None:
        name, tasks, make = subject
        result = engine.grade(exercise, make(), launcher, tasks=tasks)
        verdicts = " ".join(f"{t.id}:{t.verdict}" for t in result.tasks)
        seen[name][verdicts] += 1
        if len(seen[name]) > 1:
            out.print(
                f"[red]{name}, seed {result.seed}{', every core busy' if busy else ''}: "
                f"{verdicts}[/red]"
            )
            for t in result.tasks:
                out.print(t.message, markup=False)

    try:
        for n in range(rounds):
            busy = n >= quiet
            # one grading per core at a time: fills the machine and shows whether they disturb each
            # other
            with loaded(cores if busy else 0), ThreadPoolExecutor(cores) as pool:
                for done in [pool.submit(grade, subject, busy) for subject in subjects]:
                    done.result()
            known["busy rounds" if busy else "quiet rounds"] += 1
            if record is not None:
                record.write_text(json.dumps(known | {"seen": seen}, indent=1))
            out.print(
                f"round {n + 1} of {rounds}{', every core busy' if busy else ''}: "
                f"{time.monotonic() - began:.0f} s",
                style="dim",
            )
    finally:
        launcher.close()
    wrong = [f"{name}: {dict(c)}" for name, c in seen.items() if len(c) != 1]
    wrong += [
        f"{name}: never caught"
        for name, c in seen.items()
        if name != "solution" and not all("fail" in v for v in c)
    ]
    number = sum(sum(c.values()) for c in seen.values())
    out.print(f"{known['quiet rounds']} quiet rounds, {known['busy rounds']} with every core busy")
    out.print(
        f"{number} gradings of {len(subjects)} submissions: {len(wrong)} whose verdict changed "
        "or was wrong"
    )
    for line in wrong:
        out.print(f"  {line}")
    return 1 if wrong else 0
