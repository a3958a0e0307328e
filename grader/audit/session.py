"""An audit from its first undisturbed run to its last fault, within its budget."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from grader.audit import findings, judge, plan
from grader.audit.findings import Finding
from grader.audit.history import Life
from grader.audit.judge import Comparable, Outcome
from grader.audit.lives import Runner
from grader.audit.plan import TRUNCATE, TWICE, Fault
from grader.harness import scratch

SHORTEST = 60.0  # s that any life may take before it counts as hanging
PATIENCE = 5  # times the undisturbed run's time
SMALL = 0.1  # of the largest file's size: smaller files are no checkpoints


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
    grace: float = plan.GRACE
    base: Life = field(default_factory=Life)
    comparable: Comparable | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    untried: list[Fault] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        return self.budget - (time.monotonic() - self.began)

    @property
    def findings(self) -> list[Finding]:
        return findings.collect(self.outcomes)

    def run(self, choose: Callable[[Fault], bool] = lambda fault: True) -> None:
        """Fill in the fields, in order; `choose` says which of the drawn faults to try."""
        self.undisturbed()
        self.untried = list(filter(choose, self.drawn()))
        while self.untried:
            fault = self.untried[0]
            if self.left < self._cost(fault):
                break
            number = len(self.outcomes) + 1
            cost = sum(map(self._cost, self.untried))
            self.say(
                f"fault {number} of {number - 1 + len(self.untried)}: {fault.title}"
                f"  (about {min(self.left, cost):.0f} s left)"
            )
            self.outcomes.append(self.attempt(fault))
            self.untried.pop(0)
        saves = {save.step: save.files for save in self.base.first.saves()}
        judge.judge_losses(self.outcomes, saves)

    def undisturbed(self) -> None:
        """Two undisturbed runs, and whether they are equal."""
        self.say("undisturbed run")
        self.base = self._undisturbed()
        self.say(
            f"undisturbed run: {len(self.base.first.steps)} steps, {self.base.seconds:.1f} s; "
            "the same again"
        )
        again = self._undisturbed()
        self.comparable = judge.compare_undisturbed(self.base, again)

    def _undisturbed(self) -> Life:
        if self.left <= 0:
            raise CannotJudge("the budget was over before two undisturbed runs had ended")
        out = self.runner.new_run(self.left)
        life = self.runner.start(out, self.left)
        scratch.remove(out.parent)
        if life.ended == "wall":
            raise CannotJudge(
                "an undisturbed run doesn't end within the budget; give a larger --budget, or let "
                "the job train fewer steps"
            )
        if life.ended or life.status != 0:
            how = f"ended by the limit of {life.ended}" if life.ended else f"status {life.status}"
            raise CannotJudge(f"the undisturbed run failed ({how})", life.tail)
        if life.trouble:
            raise CannotJudge(f"the probe failed: {life.trouble}")
        if len(life.first.steps) < 2:
            raise CannotJudge(
                f"{len(life.first.steps)} optimizer steps were seen, and at least 2 are needed; "
                "the job must use torch.optim, in a Python that reads PYTHONPATH (no -I, no -E)",
                life.tail,
            )
        return life

    def drawn(self) -> list[Fault]:
        return plan.draw(self.base, random.Random(self.seed), self.grace)

    def _cost(self, fault: Fault) -> float:
        """About how many seconds: the struck run, and the rest of it again."""
        lives = 3 if fault.kind == TWICE else 2
        return 1.2 * self.base.seconds * (1 + 0.5 * (lives - 1))

    def attempt(self, fault: Fault) -> Outcome:
        """Run the job under one fault, relaunch it, and judge what was recorded."""
        assert self.comparable
        most = max(SHORTEST, PATIENCE * self.base.seconds) + self.grace
        out = self.runner.new_run(most)
        try:
            lives = self._lives(out, fault, most)
        finally:
            scratch.remove(out.parent)
        if any(life.ended == "wall" for life in lives) and self.left <= 0:
            return Outcome(fault, happened=False, why="the budget was over")
        trouble = next((life.trouble for life in lives if life.trouble), None)
        if trouble:
            return Outcome(fault, happened=False, why=f"the probe failed: {trouble}")
        return judge.judge(self.base, lives, fault, self.comparable)

    def _lives(self, out: Path, fault: Fault, most: float) -> list[Life]:
        def seconds() -> float:
            return max(1.0, min(most, self.left))

        lives = [self.runner.start(out, seconds(), fault.spec)]
        finished = len(lives[0].first.steps) >= len(self.base.first.steps)
        if (finished and lives[0].status == 0) or lives[0].fault is None:
            return lives
        if fault.kind == TRUNCATE:
            truncate(newest(out))
        if fault.second:
            lives.append(self.runner.resume(out, seconds(), fault.second))
            if lives[-1].fault is None:
                return lives
        lives.append(self.runner.resume(out, seconds()))
        return lives


def newest(out: Path) -> Path | None:
    """The newest file that is large enough to be a checkpoint."""
    files = []
    for folder, _, names in os.walk(out):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
    largest = max((size for _, size, _ in files), default=0)
    large = [(when, size, path) for when, size, path in files if size > SMALL * largest]
    return max(large)[2] if large else None


def truncate(path: Path | None) -> None:
    if path is not None:
        os.truncate(path, path.stat().st_size // 2)
