"""Grades a copy of a hand-out: its untouched starters must get no point, and nothing may crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from grader.course.catalog import Exercise
from grader.course.release import writing
from grader.course.release.contents import Content

LIMIT = 1800  # s for each exercise, as the grader's own
END = 30  # s to end in order


def problems(contents: Mapping[str, Content], exercises: list[Exercise]) -> list[str]:
    """What is wrong with the hand-out as its grader sees it, one line each."""
    with tempfile.TemporaryDirectory(prefix="release-") as scratch:
        folder, results = Path(scratch, "course"), Path(scratch, "results.json")
        writing.write_folder(folder, contents)
        status, said = _grade(folder, results, [exercise.id for exercise in exercises])
        try:
            graded = json.loads(results.read_text())["exercises"]
        except (OSError, ValueError, KeyError):
            last = said.strip().splitlines()[-1:] or ["it printed nothing"]
            return [f"grading it ended with status {status} and no results: {last[0]}"]
        return list(_judged(graded, exercises))


def _judged(graded: list[dict[str, Any]], exercises: list[Exercise]) -> Iterator[str]:
    found = {result["id"]: result for result in graded}
    for exercise in exercises:
        if exercise.id not in found:
            yield f"grading it gave no result for {exercise.id}"
            continue
        tasks = found[exercise.id]["tasks"]
        for task in tasks:
            if task["score"]:
                yield f"{task['id']}: the untouched starter gets {task['score']} points"
        if not any(task["verdict"] in ("pass", "fail") for task in tasks):
            yield f"{exercise.id}: nothing was proved, every task is inconclusive or blocked"


def _grade(folder: Path, results: Path, names: list[str]) -> tuple[int, str]:
    """Its exit status, and what it wrote on standard error."""
    command = [sys.executable, "-m", "grader", *names, "--json", str(results)]
    env = {**os.environ, "PYTHONPATH": str(folder)}
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=said
        )
        try:
            status = child.wait(LIMIT * len(names))
        except BaseException as e:  # interrupted, too: the child ends its processes first
            child.terminate()
            try:
                child.wait(END)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            if not isinstance(e, subprocess.TimeoutExpired):
                raise
            status = child.returncode
        said.seek(0)
        return status, said.read()
