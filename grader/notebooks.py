"""What the exercises' notebooks use while they run."""

from __future__ import annotations

import atexit
import functools
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from grader.checks.endings import finished
from grader.course import catalog, submissions
from grader.course.submissions import Submission
from grader.errors import UsageError
from grader.harness import launcher as launchers
from grader.harness.faults import Fault
from grader.harness.lab import Lab
from grader.harness.run import Run
from grader.harness.salts import Salts
from grader.harness.workbench import Bench, course_paths
from grader.verdicts import Finding

CELL_TIMEOUT = 120  # s; the slowest cell takes about 5


def yours(exercise_id: str) -> Submission:
    """The submission that a notebook uses, read again: the student's starter/.

    The environment variable GRADE_SUBMISSION names another one: "solution", or a directory.
    """
    where = os.environ.get("GRADE_SUBMISSION", "")
    solution = where == "solution"
    work = submissions.submission(
        catalog.find(exercise_id), Path(where) if where and not solution else None, solution
    )
    if work.problem:
        raise UsageError(work.problem)
    return work


def module(name: str, *functions) -> Submission:
    """A submission of one module: functions of a notebook, and imports of the modules they use."""
    sources = [inspect.getsource(function) for function in functions]
    known = {
        k: v.__name__
        for f in functions
        for k, v in f.__globals__.items()
        if isinstance(v, ModuleType)
    }
    used = [
        f"import {known[k]}" + (f" as {k}" if k != known[k] else "")
        for k in sorted(known)
        if any(re.search(rf"\b{k}\.", source) for source in sources)
    ]
    return Submission(
        Path(name),
        "checkpoint.py",
        {"checkpoint.py": "\n\n\n".join(["\n".join(used), *sources]).encode()},
    )


def train(
    submission: Submission,
    *argv: object,
    faults: Sequence[Fault] = (),
    script: str = "ex01/train.py",
    ranks: int | None = None,
    directory: Path | None = None,
) -> Run:
    """One run through its lives: one per fault, and a last one without; on `ranks` ranks, if given.

    What the lives reported stays readable. Their files are removed at once, because a kernel may
    end at any time; so are the checkpoints, unless you give a `directory`.
    """
    bench = Bench(submission, _launcher(), seed=0, jobs=1)
    bench.salts = Salts(None)
    try:
        lab = Lab(bench, "notebook")
        run = lab.launch(script, *argv, faults=tuple(faults), ranks=ranks, directory=directory)
        run.notes["last words"] = course_paths(_last_words(run), bench)
        run.notes["finding"] = course_paths(_finding(lab, run), bench)
    finally:
        bench.close()
    return run


def on_cluster(
    submission: Submission, script: str, *flags: object, plan: Sequence[dict] = (), uses: str = ""
):
    """One run of the submission's job script on its own cluster (ex04/cluster_runs.py).

    plan    [{"step": 7, "do": "preempt"}, ...]
    Raises  UsageError if this machine can't run a cluster.
    """
    from grader.checks.ex04 import cluster_runs

    bench = Bench(submission, _launcher(), seed=0, jobs=1)
    try:
        return cluster_runs.ran(Lab(bench, "notebook"), script, *flags, plan=tuple(plan), uses=uses)
    except Finding as found:
        raise UsageError(str(found).strip()) from found
    finally:
        bench.close()


def crash_test(code: str, beside: Submission | None = None) -> dict:
    """Run `grade crashtest` on the functions save and load of this code; return its report as data.

    beside  a submission whose modules the code may import
    The report also has "picture" (PNG of the smallest failing state, or None) and "why" (why there
    is no verdict, or empty).
    """
    with tempfile.TemporaryDirectory() as made:
        here = Path(made)
        folder = beside.copy_to(here / "code") if beside else here
        (folder / "crash.py").write_text(code)
        functions = ["--save", "crash.py:save", "--load", "crash.py:load"]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "grader",
                "crashtest",
                *functions,
                "--no-flips",
                "--no-errors",
                "--json",
                "report.json",
                "--picture",
                "worst.png",
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(catalog.ROOT)},
            capture_output=True,
            text=True,
            timeout=CELL_TIMEOUT,
        )
        report, picture = folder / "report.json", folder / "worst.png"
        if not report.exists():
            return {"why": done.stderr.strip().removeprefix("grade: "), "picture": None}
        return {
            "why": "",
            "picture": picture.read_bytes() if picture.exists() else None,
            **json.loads(report.read_text()),
        }


def files(name: str, texts: dict[str, str], module: str = "auto_resume.py") -> Submission:
    """A submission of these files, called `name`."""
    work = Submission(
        catalog.ROOT, module, {file: text.encode() for file, text in {module: "", **texts}.items()}
    )
    work.key = f"notebook {name}"
    return work


def last_words(run: Run) -> str:
    """The stderr of those lives of `run` that ended by themselves before the end of training.

    Empty if none did.
    """
    return run.notes["last words"]


def finding(run: Run) -> str:
    """The grader's finding about how the run ended; empty if it finished."""
    return run.notes["finding"]


def _finding(lab: Lab, run: Run) -> str:
    try:
        finished(lab, run)
    except Finding as found:
        return str(found).strip("\n")
    return ""


def _last_words(run: Run) -> str:
    failed = [
        (n, life)
        for n, life in enumerate(run.lives, 1)
        if not (life.finished or life.died_of_fault)
    ]
    return "\n".join(f"--- life {n}\n{life.text().strip()}" for n, life in failed)


@functools.cache
def _launcher():
    """One launcher for the kernel's life: a fork server loads torch only once."""
    launcher = launchers.choose()
    atexit.register(launcher.close)
    return launcher
