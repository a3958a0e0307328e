"""The disk states that a power loss may leave of a job's saves, for its own resume command.

The recorder of grader/crash holds the job at each system call that changes {out}. File systems lose
what no fsync has made durable: each state is what one of them may have on disk afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from grader.audit.faults import POWER, Fault
from grader.audit.history import Life, Process, Save
from grader.crash import enumeration, judge, recorder
from grader.crash.operations import Mark, Op, Tree

MODELS = ["ext4", "xfs", "nfs"]
MOST_STATES = 12  # that the job is resumed from
SAVES = 2  # that are recorded, the first ones with something to lose
MOST_TREES = 20_000  # states that are enumerated


@dataclass
class Power:
    """What was recorded, and the states to try."""

    faults: list[Fault] = field(default_factory=list)
    trees: dict[str, Tree] = field(default_factory=dict)  # by the fault's title
    possible: int = 0
    operations: int = 0
    why_not: str = ""

    def says(self, tried: int) -> str:
        if self.why_not:
            return f"not tried: {self.why_not}"
        return (
            f"tried {tried} disk states (of {self.possible} possible on {', '.join(MODELS)}) after "
            f"{self.operations} operations"
        )


def states(out: Path, do: Callable[[], None], base: Life, seconds: float) -> Power:
    """Record the job `do`, a whole run into the empty folder `out`, and choose states."""
    try:
        record = recorder.record(out, {"job": do}, seconds)
    except (recorder.Unavailable, recorder.Incomplete) as e:
        return Power(why_not=str(e))
    if record.ended[0].late:
        return Power(why_not=f"recording its system calls took more than {seconds:.0f} s")
    if record.ended[0].status != 0:
        return Power(why_not="the job failed while its system calls were recorded")
    saves = [save for save in base.first.saves() if save.step < len(base.first.steps)]
    begin, end = _window(record.ops, saves)
    if end <= begin:
        return Power(why_not="no save was seen in the record")
    ops = record.ops[:end]
    found = enumeration.space(record.disk, ops, MODELS, since=begin)
    possible = len(found.trees)
    enumeration.thin(found, MOST_STATES)
    power = Power(possible=possible, operations=len(_inside(ops)))
    seen = set()
    for state, key in zip(found.states, found.keys, strict=True):
        if key in seen:
            continue
        seen.add(key)
        fault = _fault(ops, state, saves)
        power.faults.append(fault)
        power.trees[fault.title] = state.tree
    return power


def _window(ops: list[Op], saves: list[Save]) -> tuple[int, int]:
    """The operations of a few saves: from the first one that has something to lose."""
    chosen = (saves[1:] or saves)[:SAVES]
    if not chosen:
        return 0, 0
    begin = _position(ops, chosen[0].step)
    # up to the end of the step after them: an asynchronous save has ended a step or two later
    return begin, _position(ops, chosen[-1].step + 2)


def _position(ops: list[Op], step: int) -> int:
    """How many operations there are when this step has been done."""
    marks = (n for n, op in enumerate(ops, 1) if isinstance(op, Mark) and op.save >= step)
    return next(marks, len(ops))


def _inside(ops: list[Op]) -> list[Op]:
    """The operations on what lies below {out}."""
    return [op for op in ops if not isinstance(op, Mark) and " .../" not in op.text]


def _fault(ops: list[Op], state: enumeration.State, saves: list[Save]) -> Fault:
    done = _inside(ops[: state.moment])
    step = max((op.save for op in ops[: state.moment] if isinstance(op, Mark)), default=0)
    # a save is promised once a later one has begun: an asynchronous one has ended by then
    promised = [a.step for a, b in pairwise(saves) if b.step <= step]
    at = f"after `{done[-1].text}`" if done else "at the start"
    lost = f": {'; '.join(state.lost)}" if state.lost else ""
    model = next((m for m in MODELS if m in state.models), MODELS[0])
    title = f"power loss {at} (operation {len(done)}, step {step}), {model}{lost}"
    return Fault(POWER, title, step, {"promised": max(promised, default=0)})


def lay(tree: Tree, out: Path) -> None:
    """Make `out` what the power loss left."""
    judge.lay(tree, out)


def struck(base: Life, fault: Fault) -> Life:
    """The life that the power loss ended, as far as it had come."""
    ranks = {
        rank: Process(
            rank,
            p.steps[: fault.step],
            [event for event in p.files if event.step <= fault.step],
            fault={"kind": "fault", "t": p.steps[min(fault.step, len(p.steps) - 1)].time},
        )
        for rank, p in base.ranks.items()
    }
    return Life(ranks, began=base.began)
