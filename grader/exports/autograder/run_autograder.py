#!/usr/bin/env python3
"""Grades one submission on Gradescope: reads ROOT/submission, writes ROOT/results/results.json.

ROOT is /autograder, or the first argument, or AUTOGRADER_ROOT. Needs nothing but Python: whatever
happens to the grader, there is a results.json, and it says what happened. Standard output is for
instructors.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

END = 30  # s in which the grader ends its processes
SPARE = 60  # s of Gradescope's time for all but the grading

NOT_YOURS = (
    "The score 0 is a placeholder: nothing was proved about your work, and this isn't your "
    "mistake. Tell your instructor, who sees the details and can run the autograder again."
)
UNREADABLE = (
    "The score 0 is a placeholder: nothing was graded. Correct this and submit again, or ask your "
    "instructor."
)


def main(root: Path) -> None:
    results = root / "results" / "results.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    # this stays if the container is ended: out of time, out of memory
    write(results, not_graded("The grading didn't end.", NOT_YOURS))
    try:
        settings = json.loads((root / "source" / "settings.json").read_text())
        with tempfile.TemporaryDirectory() as scratch:
            grade(root, settings, Path(scratch), results)
    except Exception as e:
        print(f"run_autograder: {type(e).__name__}: {e}", flush=True)
        write(results, not_graded("The autograder failed.", NOT_YOURS))


def grade(root: Path, settings: dict[str, Any], scratch: Path, results: Path) -> None:
    found, said = scratch / "grade.json", scratch / "stderr"
    command = [*settings["exercises"], "--submission", str(work(root / "submission"))]
    command += ["--json", str(found), "--jobs", str(cores()), "--sandbox", settings["sandbox"]]
    with open(said, "w") as stderr:
        status = run(root, command, stderr, settings["minutes"] * 60 - SPARE)
    text = said.read_text(errors="replace")
    print(text, flush=True)
    last = text.strip().splitlines()[-1:] or [f"exit status {status}"]
    if status is None:
        write(results, not_graded("The grading took too long.", NOT_YOURS))
    elif status == 2:
        why = f"The submission can't be graded: {last[0].removeprefix('grade: ')}"
        write(results, not_graded(why, UNREADABLE))
    elif not found.exists():
        write(results, not_graded("The grader failed.", NOT_YOURS))
    else:
        new = scratch / "results.json"
        convert = ["export", "gradescope", str(found), "-o", str(new)]
        convert += ["--visibility", settings["visibility"]]
        if run(root, convert, None, SPARE) != 0:
            raise RuntimeError("the results couldn't be converted")
        write(results, json.loads(new.read_text()))


def run(root: Path, arguments: list[str], stderr: TextIO | None, seconds: float) -> int | None:
    """The exit status of `grade`; None if it took longer."""
    course = root / "source" / "course"
    child = subprocess.Popen(
        [str(root / "venv" / "bin" / "python"), "-m", "grader", *arguments],
        cwd=course,
        env={**os.environ, "PYTHONPATH": str(course)},
        stderr=stderr,
        start_new_session=True,
    )
    try:
        return child.wait(max(seconds, 1))
    except subprocess.TimeoutExpired:
        child.terminate()  # it ends the lives first
        try:
            child.wait(END)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        return None


def work(submission: Path) -> Path:
    """Where the submission lies: in this folder, or in the only one that was uploaded."""
    while True:
        inside = [p for p in submission.iterdir() if not p.name.startswith((".", "__"))]
        if len(inside) != 1 or not inside[0].is_dir() or inside[0].is_symlink():
            return submission
        if re.match(r"ex\d\d", inside[0].name):
            return submission
        submission = inside[0]


def cores() -> int:
    """The processors that this container may use; the system counts those of the machine."""
    count = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            folder = Path("/sys/fs/cgroup/cpu")
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            quota = "max"
    if quota.isdigit() and int(quota) > 0:
        count = min(count, max(1, round(int(quota) / int(period))))
    return min(count, 8)


def not_graded(what: str, advice: str) -> dict[str, Any]:
    text = f"NOT GRADED. {what}\n\n{advice}"
    test = {"name": "Not graded", "status": "failed", "output": text, "visibility": "visible"}
    return {
        "score": 0,
        "output": text,
        "output_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": [test],
        "extra_data": {"not_graded": what},
    }


def write(path: Path, data: dict[str, Any]) -> None:
    new = path.with_name(".results.json.new")
    new.write_text(json.dumps(data, indent=2) + "\n")
    os.replace(new, path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else os.environ.get("AUTOGRADER_ROOT", "/autograder")))
