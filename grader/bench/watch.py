"""How soon `grade watch` gives its first verdict after a file was saved."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from grader.bench.show import out, table
from grader.course import catalog
from grader.course.catalog import ROOT

EXERCISE = "ex01"
IDLE = 8.0  # s between saves: while a student types, torch loads
VERDICTS = ("PASS", "FAIL", "INCONCLUSIVE")


class _Watch:
    def __init__(self, folder: Path, task: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "grader", "watch", task, "--submission", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it says that it was interrupted
            text=True,
            cwd=ROOT,
        )

    def seconds(self, *begins: str) -> float:
        """Until a line that begins with one of these, or that says that a task fails."""
        began = time.monotonic()
        assert self.process.stdout  # a pipe
        for line in self.process.stdout:
            if line.startswith(begins) or ("watching" not in begins and " fails [" in line):
                return time.monotonic() - began
        raise RuntimeError("grade watch ended")

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate()


def first_verdicts(rounds: int) -> None:
    exercise = catalog.find(EXERCISE)
    module, starter = exercise.module, (exercise.handed_out / exercise.module).read_text()
    cases = {"a syntax error": "def (\n", "the starter": starter}
    if exercise.solution.is_dir():
        cases["the solution"] = (exercise.solution / module).read_text()
    shown = table(
        f"From saving {module} to the first verdict on {EXERCISE}.1 (median of {rounds})",
        "",
        "cold, s",
        "warm, s",
        "warm, whole task, s",
    )
    with tempfile.TemporaryDirectory() as top:
        for name, text in cases.items():
            folder = Path(top) / "work"
            cold, warm, whole = [], [], []
            for n in range(rounds):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                _save(folder / module, text)
                watch = _Watch(folder, f"{EXERCISE}.1")
                try:
                    cold.append(watch.seconds(*VERDICTS))
                    watch.seconds("watching")
                    time.sleep(IDLE)
                    _save(folder / module, f"{text}\n# {n}\n")
                    first = watch.seconds(*VERDICTS)
                    warm.append(first)
                    whole.append(first + watch.seconds("watching"))
                finally:
                    watch.close()
            figures = [f"{statistics.median(each):.2f}" for each in (cold, warm, whole)]
            shown.add_row(name, *figures)
    out.print(shown)
    out.print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")


def _save(file: Path, text: str) -> None:
    """As most editors do."""
    new = file.with_name(f".{file.name}")
    new.write_text(text)
    os.replace(new, file)
