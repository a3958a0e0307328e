"""A life's times, computed by the grader: what the life did, and what each action costs. The job
reports its clock in the student's process. A clock that was stopped or turned back would keep
SIGKILL away, so what it says must add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from grader.harness.costs import Costs
from grader.harness.run import Process
from grader.verdicts import Inconclusive

CLOSE = 0.001  # s; the report is rounded


@dataclass
class Times:
    """(begin, end) in s of the life's clock."""

    steps: list[tuple[float, float]] = field(default_factory=list)  # parts of evaluations, too
    saves: list[tuple[float, float]] = field(default_factory=list)
    left: float | None = None


def times(life: Process, costs: Costs, end: float = math.inf, grace: float = math.inf) -> Times:
    """Of a life with SIGKILL after `end` seconds, or `grace` seconds after its first signal.
    Inconclusive, if what it reports doesn't add up.
    """
    found, now, begun = Times(), 0.0, {"step": 0, "part": 0, "save": 0}
    takes = 0.0  # the step or the save that has begun
    for e in life.events:
        kind = e.get("event")
        if kind in ("failing", "killed"):
            break
        if kind == "built":
            now += costs.build
            _not_behind(e, now)
        elif kind == "life":
            now += costs.build
        elif kind == "signal":
            _not_behind(e, now)
            end = min(end, e["clock"] + grace)
        elif kind == "saving":
            _not_behind(e, now)
            takes = _takes(costs, "save", begun, end - now)
        elif kind == "step":
            takes = _takes(costs, "step", begun, end - now)
        elif kind in ("trained", "part", "saved"):
            if kind == "part":
                takes = _takes(costs, "part", begun, end - now)
            (found.saves if kind == "saved" else found.steps).append((now, now + takes))
            now += takes
            _not_behind(e, now)
        elif kind == "left":
            _not_behind(e, now)
            found.left = now
        if now >= end + CLOSE:
            raise _turned_back(e, now)
    return found


def _takes(costs: Costs, what: str, begun: dict[str, int], left: float) -> float:
    begun[what] += 1
    return costs.takes(what, begun[what] - 1, left)


def _not_behind(event: dict, now: float) -> None:
    """It may be ahead: a handler that saves in the middle of a step does so when half of it has
    passed.
    """
    if event["clock"] < now - CLOSE:
        raise _turned_back(event, now)


def _turned_back(event: dict, now: float) -> Inconclusive:
    rows = [
        (
            "clock",
            f"the job's clock says {event.get('clock')} s, where what "
            f"it did takes {now:g} s ({event['event']})",
        ),
    ]
    return Inconclusive(
        "clock-changed",
        rows,
        means="something has changed the scheduler's clock, so the job's times aren't known",
    )
