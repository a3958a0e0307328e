"""What grading a class costs, and that its results don't depend on how it was graded."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader import mutants
from grader.bench.show import out, table
from grader.course import catalog
from grader.course.catalog import ROOT, Exercise
from grader.slurm import backend
from grader.slurm.cluster import Cluster

SEED = "20"
HOSTILE = {
    "exits": "import os\nos._exit(0)\n",
    "network": "import socket\nsocket.create_connection(('203.0.113.9', 80), timeout=1)\n",
    "floods": "print('x' * (1 << 28))\n",
    "recursion": "def f():\n    f()\nf()\n",
}


@dataclass
class _Call:
    seconds: float
    memory: float  # MiB, the peak of the command's own process
    graded: int  # students


def students(exercise: Exercise, number: int, folder: Path) -> None:
    """A class: by turns the solution, the starter, a mutant and a hostile submission.

    Each has a line of its own, so none is another's twin.
    """
    module = exercise.module
    solution = (exercise.solution / module).read_bytes()
    wrong = [
        mutants.submission(exercise, m).files[module]
        for m in mutants.load(exercise)
        if not any(file for file, _, _ in m.edits)
    ]
    for n in range(number):
        turn, kinds = n % 4, n // 4
        if turn == 0:
            text = solution
        elif turn == 1:
            text = (exercise.handed_out / module).read_bytes()
        elif turn == 2:
            text = wrong[kinds * 7 % len(wrong)]
        else:
            text = solution + list(HOSTILE.values())[kinds % len(HOSTILE)].encode()
        own = folder / f"student-{n:03}"
        shutil.copytree(exercise.handed_out, own)
        (own / module).write_bytes(text + f"\n# student {n}\n".encode())


def run(name: str, number: int) -> int:
    """Grade one class three ways: undisturbed, killed twice, on a cluster. 1 if results differ."""
    exercise = catalog.find(name)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        students(exercise, number, folder / "class")
        calls = {"undisturbed": _grade(folder, "undisturbed", [])}
        thirds = [max(1, number // 3)] * 2
        calls["killed twice"] = _grade(folder, "killed", thirds)
        if backend.missing() is None:
            with Cluster(folder / "c") as cluster:
                extra = ("--slurm", "--partition", "low")
                calls["on a cluster"] = _grade(folder, "cluster", [], cluster.env, *extra)
        ways = ("undisturbed", "killed", "cluster")[: len(calls)]
        different = {way: _different(folder / ways[0], folder / way) for way in ways}
    shown = table(
        f"{number} submissions of {exercise.id}: solution, starter, mutants, hostile ones",
        "way", "s", "submissions an hour", "MiB of the command", "different results",
    )  # fmt: skip
    for (what, call), way in zip(calls.items(), ways, strict=True):
        rate = f"{3600 * call.graded / call.seconds:.0f}"
        shown.add_row(
            what, f"{call.seconds:.0f}", rate, f"{call.memory:.0f}", str(len(different[way]))
        )
    out.print(shown)
    for way, those in different.items():
        for student, where in those.items():
            out.print(f"  {way}: {student}{where}", markup=False, highlight=False)
    return int(any(different.values()))


def _grade(folder: Path, to: str, kill_after: list[int], env=None, *extra: str) -> _Call:
    """Run the command, killing it after that many gradings, until it has ended by itself."""
    command = [
        *(sys.executable, "-m", "grader", "class", str(folder / "class")),
        *("--out", str(folder / to), "--seed", SEED, "--sandbox", "auto", *extra),
    ]
    began, memory = time.monotonic(), 0.0
    for most in [*kill_after, None]:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=ROOT
        )
        assert process.stdout
        done = 0
        for line in process.stdout:
            memory = max(memory, _peak(process.pid))
            done += line.startswith("[")
            if done == most:
                process.send_signal(signal.SIGKILL)
                break
        _, said = process.communicate()
        if process.returncode not in (0, 3, -signal.SIGKILL):
            raise RuntimeError(said)
    graded = len(list((folder / to).glob("students/*/result.json")))
    return _Call(time.monotonic() - began, memory, graded)


def _peak(pid: int) -> float:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def _different(one: Path, other: Path) -> dict[str, str]:
    """The students whose results differ in more than times -> the first difference."""
    names = sorted(path.parent.name for path in one.glob("students/*/result.json"))
    found = {name: first_difference(_read(one, name), _read(other, name)) for name in names}
    return {name: where for name, where in found.items() if where}


def first_difference(one: Any, other: Any, where: str = "") -> str:
    """Where two JSON values differ, and how; empty if they don't."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = [(f"{where}/{key}", one[key], other[key]) for key in one]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(f"{where}/{n}", *pair) for n, pair in enumerate(zip(one, other, strict=True))]
    elif one == other:
        return ""
    else:
        return f"{where}: {str(one)[:200]!r}, and {str(other)[:200]!r}"
    return next((text for at, a, b in pairs if (text := first_difference(a, b, at))), "")


def _read(results: Path, student: str) -> Any:
    path = results / "students" / student / "result.json"
    return without_times(json.loads(path.read_text())) if path.exists() else None


# a date in Slurm's own lines; how long something took
TIMES = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d|\b\d+(\.\d+)? s\b")


def without_times(value: Any) -> Any:
    """A result without what was measured."""
    if isinstance(value, str):
        return TIMES.sub("TIME", value)
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in ("seconds", "measured")}
    return [without_times(v) for v in value] if isinstance(value, list) else value
