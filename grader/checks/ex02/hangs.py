"""Points at which ranks wait for each other forever, or one of them continues alone."""

from __future__ import annotations

from collections.abc import Sequence

from grader.checks.endings import HOLDS, WAITS
from grader.checks.ex02.observations import Seen
from grader.checks.ranks import by_rank, deadlock, left_by, rank_row, standing, starved
from grader.harness.run import Process
from grader.verdicts import Finding, Gist


def nobody_hung(seen: Seen, rows: list[tuple[str, str]]) -> None:
    """At a point without a fault, no rank waited for another one in vain."""
    if seen.hangs():
        raise hang(seen, seen.until("nothing", 0), rows)
    none_went_on_alone(seen, rows)


def none_went_on_alone(seen: Seen, rows: list[tuple[str, str]]) -> None:
    """The grader ended no rank that went on after another one had ended."""
    if seen.ended_by_the_grader():
        raise hang(seen, seen.until("nothing", 0), rows)


def hang(
    seen: Seen,
    processes: list[Process],
    rows: Sequence[tuple[str, str]],
    fault: str | None = None,
    left: dict[int, str] | None = None,
) -> Finding:
    """A rank that went on alone until the grader ended it; without one, a deadlock.

    processes, left  as in ranks.deadlock
    """
    if late := starved(processes, rows, fault):
        return late
    left = _raised(processes) | (left or {})
    stood = standing(processes) | left
    for rank, where in seen.ended_by_the_grader().items():
        others = {other: text for other, text in stood.items() if other != rank}
        return Finding(
            "limit",
            [
                *rows,
                *rank_row(len(processes), rank),
                Gist("ended", "got no further, while the others waited for it"),
                *where,
                *by_rank(others),
            ],
            fault,
            about="quiet",
            means=HOLDS,
            think=WAITS,
            **seen.window,
        )
    finding = deadlock(processes, rows, fault, left)
    finding.data |= seen.window
    return finding


def _raised(processes: list[Process]) -> dict[int, str]:
    """Rank -> the error by which it left its last call: since then, it waits somewhere else."""
    found = {}
    for rank, process in enumerate(processes):
        calls = [e for e in process.events if e["event"] in ("saved point", "loaded point")]
        if calls and calls[-1]["raised"]:
            found[rank] = left_by("your function", calls[-1]["raised"])
    return found
