"""Compares recorded lives: where a life went on, what differed first, and what that amounts to.

Pure functions on values: nothing here runs or reads anything.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from grader.audit.history import Life, Process, Step
from grader.audit.plan import SIGNAL, TRUNCATE, Fault

# causes before consequences
ORDER = (
    "weights",
    "buffers",
    "optimizer",
    "learning rate",
    "batch",
    "Python RNG",
    "NumPy RNG",
    "torch RNG",
    "CUDA RNG",
    "gradients",
    "loss",
)
GENERATORS = {name for name in ORDER if name.endswith("RNG")}
# what a checkpoint carries across: equal at the same step of one run, even if two runs differ
CARRIED = ("weights", "buffers", "optimizer", "learning rate")

# what may be wrong with a run, the most harmful first
SILENT, LOUD, LOSS, NOTE = "silent", "loud", "loss", "note"
HARM = {
    "starts-over": SILENT,
    "ends-early": SILENT,
    "state-lost": SILENT,
    "unknown-weights": SILENT,
    "steps-missing": SILENT,
    "steps-repeated": SILENT,
    "no-restart": LOUD,
    "hangs": LOUD,
    "loses-more": LOSS,
    "ignores-signal": LOSS,
    "exit-status": NOTE,
    "no-save-at-signal": NOTE,
}
TOO_FAR = 3  # steps after a signal that are no longer the end of what was under way


def component(name: str) -> str:
    """In the course's words: all parts of the optimizer count as one."""
    return "optimizer" if name.startswith("optimizer") else name


def order(name: str) -> tuple[int, str]:
    known = component(name)
    return (ORDER.index(known) if known in ORDER else len(ORDER)), name


@dataclass(frozen=True)
class Difference:
    """The first step at which two lives differ, and in what; causes first."""

    step: int  # counted from 1, in the undisturbed run
    names: list[str]
    rank: int = 0

    @property
    def cause(self) -> str:
        return component(self.names[0])

    @property
    def generators(self) -> list[str]:
        return [name for name in self.names if name in GENERATORS]


@dataclass(frozen=True)
class Comparable:
    """What two undisturbed runs have in common, and so what can be judged."""

    ignored: frozenset[str] = frozenset()  # generators that training doesn't draw from
    difference: Difference | None = None
    lengths: tuple[int, int] = (0, 0)

    @property
    def reproducible(self) -> bool:
        return self.difference is None and self.lengths[0] == self.lengths[1]


def different(want: Step, got: Step, ignored: Set[str] = frozenset()) -> list[str]:
    names = (want.parts.keys() | got.parts.keys()) - ignored
    number = len(want.parts.get("batch", "").split())
    return sorted((n for n in names if _part(want, n, number) != _part(got, n, number)), key=order)


def _part(step: Step, name: str, number: int) -> object:
    """What counts of a part that has a value for each of the step's `number` forward passes.

    A life may begin with passes of its own before it resumes, such as a warm-up: they don't count.
    Buffers and generators count as they were before the first pass: the later ones follow from it.
    """
    value = step.parts.get(name)
    if value is None or not (name in GENERATORS or name in ("batch", "buffers", "loss")):
        return value
    values = value.split()[-number:] if number else value.split()
    return values if name in ("batch", "loss") else values[:1]


def compare_undisturbed(a: Life, b: Life) -> Comparable:
    """Is a second undisturbed run equal to the first?"""
    ignored = {
        name
        for name in GENERATORS
        if all(
            len({step.parts.get(name) for step in process.steps}) < 2
            for process in a.ranks.values()
        )
    }
    found = [
        first_difference(a.ranks[rank].steps, b.ranks[rank].steps, 0, frozenset(ignored), rank)
        for rank in sorted(a.ranks.keys() & b.ranks.keys())
    ]
    # a generator that differs and changes nothing else isn't one that training depends on
    every = [names for rank in a.ranks for names in _all_differences(a, b, rank, ignored)]
    if every and all(set(names) <= GENERATORS for names in every):
        ignored |= {name for names in every for name in names}
        found = []
    differences = sorted((d for d in found if d), key=lambda d: d.step)
    return Comparable(
        frozenset(ignored),
        differences[0] if differences else None,
        (len(a.first.steps), len(b.first.steps)),
    )


def _all_differences(a: Life, b: Life, rank: int, ignored: set[str]) -> list[list[str]]:
    if rank not in b.ranks:
        return [["weights"]]
    pairs = zip(a.ranks[rank].steps, b.ranks[rank].steps, strict=False)
    return [names for x, y in pairs if (names := different(x, y, ignored))]


def first_difference(
    expected: Sequence[Step],
    got: Sequence[Step],
    start: int,
    ignored: Set[str] = frozenset(),
    rank: int = 0,
    only: Sequence[str] | None = None,
) -> Difference | None:
    """The first step of `got` that differs from expected[start:], of those that both have."""
    for number, (want, have) in enumerate(zip(expected[start:], got, strict=False), start + 1):
        names = different(want, have, ignored)
        if only is not None:
            names = [name for name in names if component(name) in only]
        if names:
            return Difference(number, names, rank)
    return None


def place(reference: Sequence[Step], first: Step) -> int | None:
    """How many steps were done where a life went on: found by its weights, not by a counter.

    Weights repeat where a step changes nothing, such as one with a learning rate of 0: then the
    step that agrees in most components counts, and of equal ones the latest.
    """
    same = [n for n, step in enumerate(reference) if step.weights == first.weights]
    return max(same, key=lambda n: (-len(different(reference[n], first)), n), default=None)


@dataclass
class Problem:
    code: str
    difference: Difference | None = None
    text: str = ""

    @property
    def harm(self) -> str:
        return HARM[self.code]

    @property
    def key(self) -> tuple[str, str]:
        """Equal for the same mistake under several faults."""
        return self.code, self.difference.cause if self.difference else ""


@dataclass
class Outcome:
    """What a fault did to a run."""

    fault: Fault
    happened: bool = True
    why: str = ""  # why nothing was judged
    reached: int = 0  # steps done before the fault
    resumed: int | None = None  # steps done where the last life went on
    save: int | None = None  # step of the last save that was complete before the fault
    status: int | None = None  # of the last life
    identical: bool | None = None  # None: it couldn't be judged
    problems: list[Problem] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int | None:
        return None if self.resumed is None else max(0, self.reached - self.resumed)

    @property
    def word(self) -> str:
        """For the table."""
        if not self.happened:
            return "not judged"
        harms = {problem.harm for problem in self.problems}
        return next((harm for harm in (SILENT, LOUD, LOSS) if harm in harms), "fine")


def judge(base: Life, lives: list[Life], fault: Fault, comparable: Comparable) -> Outcome:
    """lives[0] met the fault; the others are its relaunches, in order."""
    total = len(base.first.steps)
    struck, last = lives[0], lives[-1]
    outcome = Outcome(fault, status=last.status, tail=last.tail)
    if struck.fault is None and struck.status != -signal.SIGXFSZ:
        outcome.happened = False
        outcome.why = "the job ended before the fault could come"
        return outcome
    outcome.reached = len(struck.first.steps)
    outcome.save = last_save(struck.first, fault)
    if fault.kind == SIGNAL:
        _judge_stop(outcome, struck, total)
    if len(lives) == 1:  # it had nothing left to do
        outcome.identical = True
        return outcome
    done = outcome.reached
    for number, life in enumerate(lives[1:], 1):
        resumed = _judge_life(outcome, base, lives[:number], life, comparable, done)
        if resumed is None:
            break
        done = resumed + len(life.first.steps)
    if fault.kind == SIGNAL:
        _judge_work_at_signal(outcome, struck)
    return outcome


def last_save(struck: Process, fault: Fault) -> int | None:
    """The step of the last save that had ended before the fault, and that it left whole."""
    steps = [
        save.step
        for save in struck.saves()
        if not (fault.in_a_save and save.events[-1].number >= fault.spec["event"])
    ]
    if fault.kind == TRUNCATE:
        steps = steps[:-1]
    return steps[-1] if steps else None


def _judge_life(
    outcome: Outcome,
    base: Life,
    before: list[Life],
    life: Life,
    comparable: Comparable,
    done: int,
) -> int | None:
    """Judge one relaunch; return how many steps were done where it went on."""
    total, final = len(base.first.steps), life.fault is None
    outcome.status, outcome.tail = life.status, life.tail
    if final and (life.ended or life.status != 0):
        hangs = life.ended == "wall"
        how = f"ended by the limit of {life.ended}" if life.ended else f"exit status {life.status}"
        outcome.problems.append(Problem("hangs" if hangs else "no-restart", text=how))
        return None
    steps = life.first.steps
    if not steps:
        outcome.resumed = done
        outcome.identical = done >= total
        if done < total:
            text = f"exit status 0 with {total - done} of {total} steps to go"
            outcome.problems.append(Problem("ends-early", text=text))
        return None
    at, reference = _where(base, before, steps[0], comparable)
    outcome.resumed = at
    if at is None:
        if comparable.reproducible:
            outcome.identical = False
            outcome.problems.append(Problem("unknown-weights"))
        return None
    if at == 0 and done > 0 and outcome.save is not None:
        text = f"{done} steps were done, and a save was complete after step {outcome.save}"
        outcome.problems.append(Problem("starts-over", text=text))
    if (found := _difference(base, reference, life, at, comparable)) is not None:
        outcome.problems.append(Problem("state-lost", found))
    if comparable.reproducible:
        outcome.identical = found is None
    if final:
        _judge_length(outcome, at + len(steps), total)
        ends = base.first.end, life.first.end
        same_length = at + len(steps) == total
        if found is None and comparable.reproducible and same_length and None not in ends:
            if ends[0] != ends[1]:
                outcome.identical = False
                outcome.problems.append(Problem("state-lost", Difference(total + 1, ["weights"])))
    return at


def _where(
    base: Life, before: list[Life], first: Step, comparable: Comparable
) -> tuple[int | None, Sequence[Step]]:
    """Where a life went on, and the steps that it should repeat and continue."""
    if comparable.reproducible:
        return place(base.first.steps, first), base.first.steps
    # only the struck life itself did the steps that this one should repeat
    struck = before[0].first
    steps = struck.steps
    at = place(steps, first)
    if at is None and (fault := before[0].fault) and "parts" in fault:
        after = Step(fault["optimizer"], fault["parts"])
        if after.weights == first.weights:
            at = len(steps)
    return at, steps


def _difference(
    base: Life, reference: Sequence[Step], life: Life, at: int, comparable: Comparable
) -> Difference | None:
    """The first difference that matters, of all ranks."""
    if not comparable.reproducible:
        # later steps may differ by themselves
        return first_difference(reference, life.first.steps[:1], at, only=CARRIED)
    found = []
    for rank in sorted(base.ranks.keys() & life.ranks.keys()):
        args = (base.ranks[rank].steps, life.ranks[rank].steps, at, comparable.ignored, rank)
        difference = first_difference(*args)
        # a generator in another state matters as soon as anything is drawn from it that matters
        if difference and _matters(base.ranks[rank], life.ranks[rank], at, comparable):
            found.append(difference)
    # what one rank lost spreads to all: the cause is on the rank that lost it
    return min(found, key=lambda d: (d.step, order(d.names[0])), default=None)


def _matters(base: Process, life: Process, at: int, comparable: Comparable) -> bool:
    ignored = comparable.ignored | GENERATORS
    return first_difference(base.steps, life.steps, at, ignored) is not None


def _judge_length(outcome: Outcome, reached: int, total: int) -> None:
    if reached == total:
        return
    outcome.identical = False
    code = "steps-missing" if reached < total else "steps-repeated"
    text = f"the run ended after {reached} steps, the undisturbed one after {total}"
    outcome.problems.append(Problem(code, text=text))


def _judge_stop(outcome: Outcome, struck: Life, total: int) -> None:
    """How a job took a signal that announces its end."""
    name = signal.Signals(outcome.fault.spec["number"]).name
    after = outcome.reached - outcome.fault.step
    finished = outcome.reached >= total
    if struck.grace_over:
        seconds = outcome.fault.spec["grace"]
        text = f"{after} more steps in {seconds:.0f} s, then SIGKILL"
        outcome.problems.append(Problem("ignores-signal", text=text))
    elif finished and after >= TOO_FAR:
        text = f"it trained its last {after} steps after {name}; a longer job is killed on the way"
        outcome.problems.append(Problem("ignores-signal", text=text))
    elif struck.status == 0 and not finished:
        text = f"exit status 0 after {name}, {total - outcome.reached} steps before the end"
        outcome.problems.append(Problem("exit-status", text=text))


def _judge_work_at_signal(outcome: Outcome, struck: Life) -> None:
    ignored = any(problem.code == "ignores-signal" for problem in outcome.problems)
    if not ignored and outcome.lost:
        name = signal.Signals(outcome.fault.spec["number"]).name
        text = f"{outcome.lost} steps lost although {name} announced the end"
        outcome.problems.append(Problem("no-save-at-signal", text=text))


def judge_losses(outcomes: list[Outcome], saves: dict[int, frozenset[str]]) -> None:
    """Adds "loses-more" where a complete save wasn't used, by what other runs resumed from.

    saves  step -> the files of that save in the undisturbed run. A job may also write files that
           aren't for resuming, such as its best model: only a save with the files of one that a
           run did resume from counts
    """
    used = {saves[o.resumed] for o in outcomes if o.resumed in saves if o.resumed}
    for outcome in outcomes:
        if outcome.resumed is None or outcome.save is None or not outcome.resumed:
            continue
        usable = saves.get(outcome.save)
        if usable in used and outcome.resumed < outcome.save:
            text = f"went on from step {outcome.resumed}, not from the save of step {outcome.save}"
            outcome.problems.append(Problem("loses-more", text=text))
