"""Runs a crash test (grader/crash) inside of a life, and tells what it found as events."""

from __future__ import annotations

import re
from pathlib import Path

from grader.crash import crashtest, story
from grader.crash.recorder import Incomplete, Unavailable
from grader.harness import watch

SECONDS = 20  # for the saves; milliseconds are normal
TREES = 120  # different directories that are read; of more, so many are drawn


def test(program: crashtest.Program, directory: str, most_trees: int = TREES, **more) -> None:
    """Every state that a power loss may leave of the program's saves, tried in folders below `directory`.

    Emits "crash states" with the report as data; "crash states unseen" with `why` where there is no verdict.
    """
    try:
        report = crashtest.test(program, errors=False, flips=False, seconds=SECONDS, most_trees=most_trees, folder=Path(directory), **more)
    except (Unavailable, Incomplete, RuntimeError) as e:
        watch.emit("crash states unseen", why=str(e), seen=not isinstance(e, Unavailable))
        return
    advice = [re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in story.advice(report)] if report.failing else []
    watch.emit("crash states", report=story.as_data(report), advice=advice)
