"""Calls that leave files open or threads running, each one more than the call before."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from grader.verdicts import Finding, Found

# Calls in a row, each of which leaves the process with more than the one before. A pool of threads
# also grows at first: whether it needs one more depends on how fast its threads come back.
ENOUGH = {"files": 5, "threads": 20}


def nothing_left_open(
    held: Sequence[dict], function: str, rows: Sequence[tuple[str, str]] = ()
) -> None:
    """`held`: what the process held after each of its calls (grader/workload/left_open.py)."""
    for what, left in (("files", "file open"), ("threads", "thread running")):
        rises = [before[what] < after[what] for before, after in pairwise(held)]
        enough = ENOUGH[what]
        if any(all(rises[n : n + enough]) for n in range(len(rises) - enough + 1)):
            raise Finding(
                "left-open",
                [
                    ("called", f"{function}, {len(held)} times in one process"),
                    *rows,
                    Found(f"each call leaves a {left}"),
                    ("expected", "a call leaves nothing behind in the process"),
                ],
            )
