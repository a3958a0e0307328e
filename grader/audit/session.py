"""An audit from its first undisturbed run to its last fault, within its budget."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from grader.audit import (
    compare,
    damage,
    findings,
    judge,
    judge_ends,
    judge_files,
    plan,
    power,
    problems,
)
from grader.audit.compare import Comparable
from grader.audit.faults import DAMAGE, ELASTIC, GRACE, POWER, TWICE, WARNED, Fault
from grader.audit.findings import Finding
from grader.audit.history import Life
from grader.audit.lives import Runner
from grader.audit.power import Power
from grader.audit.problems import Outcome, Problem
from grader.harness import scratch

SHORTEST = 60.0  # s that any life may take before it counts as hanging
PATIENCE = 5  # times the undisturbed run's time
LONG_STEP = 0.02  # s
# of a long step, for the probe; the job also waits for data that the probe pushes out of the cache,
# and both together may take a tenth
SHARE = 0.07
AT_ONCE = 4  # states of a power loss that are tried before all other faults that are left


class CannotJudge(Exception):
    """One line: why there is nothing to judge."""

    def __init__(self, why: str, printed: list[str] | None = None) -> None:
        super().__init__(why)
        self.printed = printed or []


@dataclass
class Audit:
    """All that an audit knows so far: a report can be made at any time."""

    runner: Runner
    budget: float  # s
    seed: int
    say: Callable[[str], None]  # progress, one line each
    grace: float = GRACE
    elastic: int = 0  # ranks to resume on, too
    base: Life = field(default_factory=Life)
    again: Life = field(default_factory=Life)  # the second undisturbed run
    comparable: Comparable | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    undisturbed_problems: list[Problem] = field(default_factory=list)
    untried: list[Fault] = field(default_factory=list)
    power: Power | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        return self.budget - (time.monotonic() - self.began)

    @property
    def findings(self) -> list[Finding]:
        return findings.collect(self.outcomes, self.undisturbed_problems)

    def run(self, choose: Callable[[Fault], bool] = lambda fault: True) -> None:
        """Fill in the fields, in order; `choose` says which of the drawn faults to try."""
        self.undisturbed()
        self.run_faults(self.drawn(), choose)

    def run_faults(
        self, chosen: list[Fault], choose: Callable[[Fault], bool] = lambda fault: True
    ) -> None:
        wanted = list(filter(choose, chosen))
        # a state's name isn't known before the saves are recorded
        self.untried = wanted or [fault for fault in chosen if fault == plan.RECORD]
        try:
            while self.untried and self.left >= self._cost(self.untried[0]):
                self._say_progress(self.untried[0])
                if self.untried[0] == plan.RECORD:
                    states = list(filter(choose, self._record()))
                    others = self.untried[1:]
                    self.untried = [*states[:AT_ONCE], *others, *states[AT_ONCE:]]
                else:
                    self.outcomes.append(self.attempt(self.untried[0]))
                    self.untried.pop(0)
        finally:  # Ctrl-C, too: what is known so far is judged
            saves = {save.step: save.files for save in self.base.first.saves()}
            if not self.base.first.asynchronous:
                judge_files.excuse_starts(self.outcomes, saves)
                judge_files.judge_older(self.outcomes, saves)
            judge_files.judge_never_saves(self.outcomes, self.base)
            problems.settle(self.outcomes)

    def _say_progress(self, fault: Fault) -> None:
        number = len(self.outcomes) + 1
        cost = sum(map(self._cost, self.untried))
        self.say(
            f"fault {number} of {number - 1 + len(self.untried)}: {fault.title}"
            f"  (about {min(self.left, cost):.0f} s to go)"
        )

    # --- undisturbed

    def undisturbed(self) -> None:
        """Two undisturbed runs, and whether they are equal.

        One of them may fail or hang after its last step, as with torch 2.13 by chance: the other
        one then shows how the job ends.
        """
        self.say("undisturbed run")
        self.base, doubt = self._undisturbed()
        if doubt and not _came_to_its_end(self.base):
            raise CannotJudge(doubt, self.base.tail)
        if not doubt:
            self.runner.every = sampling(self.base)
        self.say(
            f"undisturbed run: {len(self.base.first.steps)} steps in {self.base.seconds:.1f} s; "
            "the same run again"
        )
        self.again, why = self._undisturbed()
        if doubt:
            if why:
                raise CannotJudge(doubt, self.base.tail)
            self.base, self.again, why = self.again, self.base, doubt
            self.runner.every = sampling(self.base)
        if why:
            same = len(self.again.first.steps) == len(self.base.first.steps)
            if not (same and ends_badly(self.again, self.base)):
                raise CannotJudge(why, self.again.tail)
            self.undisturbed_problems.append(judge_ends.after_the_last_step(self.again))
        self.comparable = compare.compare_undisturbed(self.base, self.again)
        if grows := judge_files.growth(self.base):
            self.undisturbed_problems.append(grows)

    def _undisturbed(self) -> tuple[Life, str]:
        """An undisturbed run, and why it is of no use; empty if it is of use."""
        if self.left <= 0:
            raise CannotJudge("the budget ran out before two undisturbed runs were done")
        out = self.runner.new_run(self.left)
        known = len(self.base.first.steps)  # of the first run, if this is the second one
        # the second one may hang after its last step: then there is time left for faults
        seconds = min(self.left, max(self._most(), self.left / 2)) if known else self.left
        life = self.runner.start(out, seconds)
        scratch.remove(out.parent)
        return life, _why_not(life, seconds)

    # --- faults

    def drawn(self) -> list[Fault]:
        draw = plan.Draw(self.base, random.Random(self.seed), self.grace, self.elastic)
        return draw.all()

    def _cost(self, fault: Fault) -> float:
        """About how many seconds: the struck run, and the rest of it again."""
        lives = 3 if fault.kind == TWICE else 1 if fault.kind == POWER else 2
        return 1.2 * self.base.seconds * (1 + 0.5 * (lives - 1))

    def _most(self) -> float:
        """s that any life may take."""
        return max(SHORTEST, PATIENCE * self.base.seconds) + self.grace

    def attempt(self, fault: Fault) -> Outcome:
        """Run the job under one fault, relaunch it, and judge what was recorded."""
        assert self.comparable
        out = self.runner.new_run(self._most())
        try:
            lives, why = self._lives(out, fault)
        finally:
            scratch.remove(out.parent)
        if any(life.ended == "wall" for life in lives) and self.left <= 0:
            why = "the budget ran out"
        if why := why or spoiled(lives):
            return Outcome(fault, happened=False, why=why)
        outcome = judge.judge(self.base, lives, fault, self.comparable)
        if outcome.happened and len(lives) > 1 and self.comparable.reproducible:
            judge_files.judge_saved(outcome, self.base, self.again, lives[-1])
            judge_files.judge_leftovers(outcome, self.base, lives[0], lives[-1])
        return outcome

    def _lives(self, out: Path, fault: Fault) -> tuple[list[Life], str]:
        """The lives of a run under this fault; and why it couldn't be made, if it couldn't."""

        def seconds() -> float:
            return max(1.0, min(self._most(), self.left))

        if fault.kind == POWER:
            assert self.power
            power.lay(self.power.trees[fault.title], out)
            return [power.struck(self.base, fault), self.runner.resume(out, seconds())], ""
        struck = self.runner.start(out, seconds(), fault.spec)
        lives = [struck, *struck.later]
        finished = len(struck.first.steps) >= len(self.base.first.steps)
        stopped = fault.kind in WARNED and struck.status is not None and not finished
        if (finished and struck.status == 0) or not (struck.fault or stopped):
            return lives, ""
        if struck.later and struck.status == 0:
            return lives, ""  # its launcher has brought it back
        if fault.kind in DAMAGE and (why := damage.do(fault, struck, out)):
            return lives, why
        if fault.second:
            lives.append(self.runner.resume(out, seconds(), fault.second))
            if lives[-1].fault is None:
                return lives, ""
        again = self.runner.resume_elsewhere if fault.kind == ELASTIC else self.runner.resume
        lives.append(again(out, seconds()))
        return lives, ""

    def _record(self) -> list[Fault]:
        """Record an undisturbed run for the states of a power loss."""
        out = self.runner.new_run(self._most())
        do = self.runner.to_record(out)
        try:
            self.power = power.states(out, do, self.base, min(self._most(), self.left))
        finally:
            scratch.remove(out.parent)
        return self.power.faults


def spoiled(lives: list[Life]) -> str:
    """Why these lives say nothing of the job; empty if they do."""
    for life in lives:
        if life.trouble:
            return f"the probe failed: {life.trouble}"
        if (life.ended == "wall" or life.grace_over) and life.waited > life.seconds / 2:
            return (
                f"the machine was too busy: in {life.seconds:.0f} s, a run had to wait "
                f"{life.waited:.0f} s for a processor or a disk"
            )
    return ""


def ends_badly(life: Life, like: Life) -> bool:
    """Did it fail or hang after its last step? `like`: a life that ended well.

    One whose time was over soon after its last step may only have been slow.
    """
    if life.ended != "wall":
        return bool(life.ended) or life.status != 0
    patience = max(SHORTEST / 2, life.seconds / 2, 2 * PATIENCE * _quiet(like))
    return _quiet(life) > patience and not spoiled([life])


def _came_to_its_end(life: Life) -> bool:
    """Did Python shut down at least one of its processes that trained, and no exception before?"""
    ranks = life.ranks.values()
    return len(life.first.steps) > 1 and any(p.end and not p.raised for p in ranks)


def _quiet(life: Life) -> float:
    """s from its last step to its end."""
    steps = life.first.steps
    return life.began + life.seconds - steps[-1].time if steps else 0.0


def _why_not(life: Life, seconds: float) -> str:
    """Why an undisturbed run is of no use; empty if it is."""
    steps = len(life.first.steps)
    if life.ended == "wall":
        quiet = _quiet(life)
        if quiet > max(SHORTEST, life.seconds / 2):
            return f"an undisturbed run did {steps} steps, then nothing for {quiet:.0f} s: it hangs"
        return (
            f"an undisturbed run didn't finish in {seconds:.0f} s: use a larger --budget, or train "
            "fewer steps"
        )
    if life.ended or life.status != 0:
        return f"the undisturbed run failed ({judge_ends.how(life)})"
    if life.trouble:
        return f"the probe failed: {life.trouble}"
    if steps == 1:
        return "only 1 optimizer step was seen, and at least 2 are needed: train more steps"
    if not steps:
        return (
            f"{steps} optimizer steps were seen, and at least 2 are needed; the job must use "
            "torch.optim, in a Python that reads PYTHONPATH (no -I, no -E)"
        )
    return ""


def sampling(base: Life) -> int:
    """Record every how many steps: all, unless that takes too much of a long step."""
    steps = base.first.steps
    times = sorted(b.time - a.time for a, b in pairwise(steps))
    if not times:
        return 1
    cost = base.first.cost
    step = max(0.0, times[len(times) // 2] - cost)
    if step < LONG_STEP or cost <= SHARE * step:
        return 1
    return math.ceil(cost / (SHARE * step))
