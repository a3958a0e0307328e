"""What a loop does that nothing stops, and when: time limits are set by it.

All times are in seconds of the scheduler's clock (grader/workload/ex03/virtual_clock.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from grader.checks.ex03.stop_runs import EPOCHS, SAVE_EVERY, steps_per_epoch
from grader.harness.costs import Costs
from grader.harness.lab import Lab

PARTS = 12  # of an evaluation
HALF_AGAIN = 1.5  # times the longest save: as long may the next one take
# of what a step and a save after it may take, so much is left: a right job doesn't begin the step
SHARP = 0.97
LATE = 1.49  # times the longest save: what the one takes for which little time is left


@dataclass(frozen=True)
class Done:
    """Something that a plain loop has done, and when."""

    what: str  # "step", "part" or "save"
    step: int
    took: float
    at: float


def plain_course(
    lab: Lab, costs: Costs, save_every: int = SAVE_EVERY, epochs: int = EPOCHS
) -> list[Done]:
    """What a loop does that saves when a save is due, and that nothing stops."""
    steps, found = steps_per_epoch(lab), []
    now, numbers = 2 * costs.build, {"step": 0, "part": 0, "save": 0}

    def does(what: str, step: int) -> None:
        nonlocal now
        took = costs.takes(what, numbers[what], math.inf)
        now += took
        numbers[what] += 1
        found.append(Done(what, step, took, now))

    for step in range(1, epochs * steps + 1):
        does("step", step)
        if step % save_every == 0:
            does("save", step)
        if step % steps == 0:
            for _ in range(PARTS):
                does("part", step)
    return found


def until(course: list[Done], last: Callable[[Done], bool]) -> list[Done]:
    """The course up to the first thing that `last` holds for, which is the last one here."""
    number = next(n for n, done in enumerate(course) if last(done))
    return course[: number + 1]


def limited(course: list[Done], costs: Costs) -> tuple[Costs, float]:
    """A limit that falls where it hurts most: after this course, a step no longer fits, but
    nearly. What is begun all the same takes as long as it may. The costs, and the limit.
    """
    step = max((done.took for done in course if done.what != "save"), default=0.0)
    save = max((done.took for done in course if done.what == "save"), default=0.0)
    needed = step + HALF_AGAIN * save
    left = SHARP * needed
    late = {"late_step": step or costs.step, "late_save": LATE * save or costs.save}
    begins = course[-1].at if course else 2 * costs.build
    return replace(costs, near=left + needed / 1000, **late), begins + left


# --- the length of a second -----------------------------------------------------------------------


# Steps take a tenth of a second or half an hour, and what is right must be right for both: a limit
# in whole seconds isn't, nor is a constant.


def short(lab: Lab) -> float:
    """A unit of time, in s: the steps of a check take fractions of a second."""
    return round(lab.draw.uniform(0.01, 0.02), 4)


def long(lab: Lab) -> float:
    """The same: each takes an hour or so."""
    return float(lab.draw.randint(500, 1500))
