"""What may be wrong with a run, by code, and how much harm it does."""

from __future__ import annotations

from dataclasses import dataclass, field

from grader.audit.compare import Difference
from grader.audit.faults import WARNED, Fault

DURING_A_SAVE = "starts-over during a save"  # a case of words.py
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
    "stops-again": LOUD,
    "damaged-newest": LOUD,
    "power-loss-stops": LOUD,
    "hangs": LOUD,
    "hangs-at-exit": LOUD,
    "fails-at-exit": LOUD,
    "rank-loss-hangs": LOUD,
    "never-saves": LOSS,
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
    case: str = ""  # what more is known of a lost piece (words.py)
    at_signals: bool = False  # a crash, with its older checkpoint, doesn't show it

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
    """Say of each problem under which faults it really comes."""
    # what goes wrong under a plain crash, too, isn't due to a damaged disk or a power loss
    plain = {(p.key, _error(o, p)) for o in outcomes for p in o.problems if not p.was}
    for outcome in outcomes:
        for problem in outcome.problems:
            if problem.was and ((problem.was, problem.what), _error(outcome, problem)) in plain:
                problem.code, problem.was = problem.was, ""
    _settle_saves(outcomes)
    _settle_signals(outcomes)


def _error(outcome: Outcome, problem: Problem) -> str:
    """The kind of error that stopped a relaunch: others have other causes."""
    stopped = "no-restart" in (problem.code, problem.was)
    return outcome.tail[-1].partition(":")[0] if stopped and outcome.tail else ""


def _settle_saves(outcomes: list[Outcome]) -> None:
    """A job that starts over only after a fault during a save has lost its last checkpoint."""
    over = [(o, p) for o in outcomes for p in o.problems if p.code == "starts-over"]
    saves = any(o.resumed for o in outcomes) and all(o.fault.in_a_save for o, _ in over)
    for _, problem in over:
        problem.case = DURING_A_SAVE if saves else ""


def _settle_signals(outcomes: list[Outcome]) -> None:
    """What only a save at a signal gets wrong isn't due to what checkpoints hold."""
    crashes = [o for o in outcomes if o.fault.kind not in WARNED]
    if not any(o.happened and o.resumed and o.identical for o in crashes):
        return
    known = {problem.key for o in crashes for problem in o.problems}
    for outcome in outcomes:
        for problem in outcome.problems:
            wrong = problem.code in ("state-lost", "steps-missing", "steps-repeated")
            problem.at_signals = wrong and not outcome.lost and problem.key not in known


@dataclass
class Lane:
    """A life of a run, for its timeline."""

    first: int | None  # steps done before it began to train; None: it isn't known
    steps: int  # that it did
    saves: list[int]  # steps after which it saved
    end: str
