"""What may be wrong with a run, by code, and how much harm it does."""

from __future__ import annotations

from dataclasses import dataclass, field

from grader.audit.compare import Difference
from grader.audit.faults import Fault

# the most harmful first
SILENT, LOUD, LOSS, NOTE = "silent", "loud", "loss", "note"
HARM = {
    "starts-over": SILENT,
    "ends-early": SILENT,
    "state-lost": SILENT,
    "unknown-weights": SILENT,
    "not-trained": SILENT,
    "damage-unnoticed": SILENT,
    "power-loss-silent": SILENT,
    "steps-missing": SILENT,
    "steps-repeated": SILENT,
    "saved-state-lost": SILENT,
    "no-restart": LOUD,
    "damaged-newest": LOUD,
    "power-loss-stops": LOUD,
    "hangs": LOUD,
    "hangs-at-exit": LOUD,
    "fails-at-exit": LOUD,
    "rank-loss-hangs": LOUD,
    "loses-more": LOSS,
    "power-loss-older": LOSS,
    "ignores-signal": LOSS,
    "exit-status": NOTE,
    "no-save-at-signal": NOTE,
    "flip-unnoticed": NOTE,
    "only-checkpoint": NOTE,
    "saved-value-lost": NOTE,
    "leftovers": NOTE,
    "disk-grows": NOTE,
}


@dataclass
class Problem:
    code: str
    difference: Difference | None = None
    text: str = ""
    component: str = ""  # where there is no difference that says it
    was: str = ""  # its code under a plain crash

    @property
    def harm(self) -> str:
        return HARM[self.code]

    @property
    def what(self) -> str:
        """The component that is lost, if one is."""
        return self.difference.cause if self.difference else self.component

    @property
    def key(self) -> tuple[str, str]:
        """Equal for the same mistake under several faults."""
        return self.code, self.what


@dataclass
class Outcome:
    """What a fault did to a run."""

    fault: Fault
    happened: bool = True
    why: str = ""  # why nothing was judged
    reached: int = 0  # steps done before the fault
    resumed: int | None = None  # steps done where the last life continued
    save: int | None = None  # step of the last save that was complete before the fault
    seconds_lost: float | None = None  # of work
    restart: float | None = None  # s from the relaunch to its first step
    status: int | None = None  # of the last life
    identical: bool | None = None  # None: it couldn't be judged
    problems: list[Problem] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)
    lanes: list[Lane] = field(default_factory=list)
    # when the fault came: s after the launch, and after which checkpoint and how long after it
    after_seconds: float = 0.0
    after_file: str = ""
    since_file: float = 0.0

    @property
    def lost(self) -> int | None:
        return None if self.resumed is None else max(0, self.reached - self.resumed)

    @property
    def word(self) -> str:
        """For the table."""
        if not self.happened:
            return "not judged"
        harms = {problem.harm for problem in self.problems}
        return next((harm for harm in (SILENT, LOUD, LOSS, NOTE) if harm in harms), "fine")


def settle(outcomes: list[Outcome]) -> None:
    """What goes wrong under a plain crash, too, isn't due to a damaged disk or a power loss."""
    plain = {problem.key for o in outcomes for problem in o.problems if not problem.was}
    for outcome in outcomes:
        for problem in outcome.problems:
            if problem.was and (problem.was, problem.what) in plain:
                problem.code, problem.was = problem.was, ""


@dataclass
class Lane:
    """A life of a run, for its timeline."""

    first: int | None  # steps done before it began to train; None: it isn't known
    steps: int  # that it did
    saves: list[int]  # steps after which it saved
    end: str
