"""Judges one fault: what it cost, and what went wrong.

Pure functions on what lives recorded: nothing here runs or reads anything.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace

from grader.audit import judge_ends, words
from grader.audit.compare import (
    CARRIED,
    GENERATORS,
    Comparable,
    Difference,
    causes,
    component,
    first_difference,
    first_steps,
    order,
    origin,
    place,
)
from grader.audit.faults import DAMAGE, ELASTIC, FLIP, FULL, LIMIT, POWER, RANK, WARNED, Fault
from grader.audit.history import Life, Process, Save, Step
from grader.audit.judge_files import large, numberless, of_newest_save
from grader.audit.problems import Lane, Outcome, Problem

MIXED = "it saves in a thread: unless it copies the state first, a checkpoint may mix steps"


def judge(base: Life, lives: list[Life], fault: Fault, comparable: Comparable) -> Outcome:
    """lives[0] met the fault; the others are its relaunches, in order."""
    total = len(base.first.steps)
    struck, last = lives[0], lives[-1]
    outcome = Outcome(fault, status=last.status, tail=last.tail)
    outcome.reached = len(struck.first.steps)
    outcome.lanes.append(_lane(struck, 0, fault))
    if not _happened(struck, fault, total):
        outcome.happened = False
        outcome.why = "the job ended before the fault could come"
        return outcome
    marked = all(save.marked for save in base.first.saves())
    outcome.save = last_save(struck.first, fault, marked)
    _note_when(outcome, struck)
    if fault.kind in WARNED:
        judge_ends.stop(outcome, struck, total)
    elif fault.kind == FULL and struck.status == 0 and outcome.reached < total:
        left = words.steps(total - outcome.reached)
        text = f"exit status 0 after a save failed, {left} before the end"
        outcome.problems.append(Problem("exit-status", text=text))
    elif fault.kind == RANK and struck.ended == "wall":
        text = "the other ranks were still running at the time limit"
        outcome.problems.append(Problem("rank-loss-hangs", text=text))
    if len(lives) == 1:  # it had nothing left to do
        outcome.identical = True
        return outcome
    done = outcome.reached
    for number, life in enumerate(lives[1:], 1):
        resumed = _judge_life(outcome, base, lives[:number], life, comparable, done)
        outcome.lanes.append(_lane(life, resumed))
        if resumed is None:
            break
        _count_seconds(outcome, lives[number - 1], life, resumed)
        done = resumed + len(life.first.steps)
    if fault.kind in WARNED:
        judge_ends.work_at_signal(outcome)
    outcome.problems = [_under(outcome, problem, struck) for problem in outcome.problems]
    return outcome


def _happened(struck: Life, fault: Fault, total: int) -> bool:
    if struck.fault is not None or struck.status == -signal.SIGXFSZ:
        return True
    # one that watches its time limit stops before the signal
    return fault.kind == LIMIT and struck.status is not None and len(struck.first.steps) < total


def _lane(life: Life, first: int | None, fault: Fault | None = None) -> Lane:
    """fault  what met this life: a save that it interrupts isn't shown as one"""
    saves = [s.step + (first or 0) for s in life.first.saves() if not (fault and _cuts(fault, s))]
    return Lane(first, len(life.first.steps), saves, judge_ends.how(life))


def _count_seconds(outcome: Outcome, before: Life, life: Life, resumed: int) -> None:
    """Of work that is repeated, and until the first step of the relaunch."""
    old, new = before.first.steps, life.first.steps
    if new and life.began:
        outcome.restart = max(0.0, new[0].time - life.began)
    at = resumed - (outcome.reached - len(old))
    if old and 0 <= at <= len(old) and before.first.fault:
        struck = float(before.first.fault.get("t", old[-1].time))
        since = old[at].time if at < len(old) else struck
        outcome.seconds_lost = max(0.0, struck - since)


def _note_when(outcome: Outcome, struck: Life) -> None:
    """When the fault came, for those who can't count steps."""
    came = float((struck.fault or {}).get("t", struck.began))
    outcome.after_seconds = max(0.0, came - struck.began)
    numbered = [f for f in of_newest_save(struck) if numberless(f.name) != f.name]
    if numbered and not outcome.fault.in_a_save:
        outcome.after_file = numbered[0].name
        outcome.since_file = max(0.0, came - numbered[0].written)


def _cuts(fault: Fault, save: Save) -> bool:
    return fault.in_a_save and save.events[-1].number >= fault.spec["event"]


def last_save(struck: Process, fault: Fault, marked: bool = False) -> int | None:
    """The step of the last save that had ended before the fault, and that it left whole.

    marked  all saves of an undisturbed run have what no log has
    """
    steps = [
        save.step for save in struck.saves() if save.marked or not marked if not _cuts(fault, save)
    ]
    if fault.kind in DAMAGE:
        steps = steps[:-1]
    if struck.asynchronous:  # the last one may be under way, and one may look like two
        steps = steps[:-2]
    if fault.kind == POWER:  # what it is promised
        steps = [step for step in steps if step <= fault.spec["promised"]]
    return steps[-1] if steps else None


# --- a relaunch -----------------------------------------------------------------------------------


def _judge_life(
    outcome: Outcome,
    base: Life,
    before: list[Life],
    life: Life,
    comparable: Comparable,
    done: int,
) -> int | None:
    """Judge one relaunch; return how many steps were done where it continued."""
    total, final = len(base.first.steps), life.fault is None
    elsewhere = outcome.fault.kind == ELASTIC
    outcome.status, outcome.tail = life.status, life.tail
    steps = life.first.steps
    exact = comparable.reproducible
    at, reference = _where(base, before, steps[0], comparable) if steps else (None, [])
    if final and not judge_ends.well(outcome, life, at, done, total):
        return None
    if not steps:
        outcome.resumed = done if done >= total else None
        outcome.identical = done >= total
        if done < total:
            text = f"stopped after step {done}; the relaunch did no steps and exited with status 0"
            text += f", {words.steps(total - done)} before the end"
            outcome.problems.append(Problem("ends-early", text=text))
        return None
    if at is None and exact and len(before) > 1 and outcome.identical is False:
        # the life before has gone its own way, and may have saved there: only that one did the
        # steps that this one should continue
        at, reference = _after(before[-1], base.first.steps[: outcome.resumed], steps[0])
        exact = at is None
    outcome.resumed = at
    mixed = MIXED if before[0].first.asynchronous else ""
    if at is None:
        if exact and not (elsewhere and _sharded(base)):
            outcome.identical = False
            outcome.problems.append(Problem("unknown-weights", text=mixed))
        elif final and outcome.save is not None and len(steps) >= total:
            text = f"all {words.steps(total)} were trained again, from weights never seen before"
            outcome.problems.append(Problem("starts-over", text=text))
        return None
    if at == 0 and done > 0 and outcome.save is not None:
        text = _was_there(base.first, outcome.save)
        outcome.problems.append(Problem("starts-over", text=text))
    if judge_ends.trains_nothing(outcome, reference[at:], steps[0]):
        return at
    if elsewhere:  # other batches on each rank: only what a checkpoint carries must be equal
        found = first_difference(reference, steps[:1], at, only=CARRIED)
    else:
        found = _difference(base, reference, life, at, comparable, exact)
    if found is not None:
        got, expected = life.ranks[found.rank].steps, base.ranks[found.rank].steps
        for one in causes(found, at, reference if found.rank == 0 else expected, got):
            problem = _state_lost(one, got[one.step - at - 1], expected)
            problem.text = "; ".join(filter(None, (problem.text, mixed)))
            outcome.problems.append(problem)
    if exact and not elsewhere:
        outcome.identical = found is None
        if final:
            judge_ends.at_the_end(outcome, base, life, at)
    elif final and not elsewhere:
        judge_ends.length(outcome, at + len(steps), total)
    return at


def _was_there(base: Process, save: int) -> str:
    """What a life could have resumed from."""
    events = next((each.events for each in base.saves() if each.step == save), [])
    if not events or any(each.marked for each in base.saves()):
        return f"the save after step {save} was complete"
    return f"it had written {events[-1].path} after step {save}, and resumed from no file"


def _state_lost(found: Difference, step: Step, expected: Sequence[Step]) -> Problem:
    """With what more is known: where the batch or the learning rate belongs, and whose step it is.

    step  the one that differs
    """
    texts, case = [], ""
    if found.cause in ("batch", "learning rate"):
        if of := origin(expected, found.cause, step, found.step):
            texts.append(f"its {found.cause} is that of step {of} of the undisturbed run")
            case = words.MOVED if found.cause == "batch" else words.RATE_MOVED
    elif [n for n in found.names if component(n) == "optimizer"] == [words.SETTINGS]:
        case = words.SETTINGS if found.cause == "optimizer" else ""
    elif found.cause == "gradients" and "batch" not in found.same:
        case = words.NO_BATCH
    several = len({step.optimizer for step in expected})
    if several > 1 and found.step <= len(expected):
        number = expected[found.step - 1].optimizer + 1
        texts.append(f"step of optimizer {number} of {several}, in the order of their first steps")
    return Problem("state-lost", found, "; ".join(texts), case=case)


def _sharded(life: Life) -> bool:
    """Has each rank its own part of the weights?"""
    firsts = [process.steps[0].weights for process in life.ranks.values()]
    return len(set(firsts)) > 1


def _where(
    base: Life, before: list[Life], first: Step, comparable: Comparable
) -> tuple[int | None, Sequence[Step]]:
    """Where a life continued, and the steps that it should repeat and continue."""
    if comparable.reproducible:
        return place(base.first.steps, first), base.first.steps
    # only the struck life itself did the steps that this one should repeat
    return _after(before[0], [], first)


def _after(life: Life, earlier: Sequence[Step], first: Step) -> tuple[int | None, Sequence[Step]]:
    """Where among the steps of `life`, or right after them, another one continues; and all steps.

    earlier  those before the life's own
    """
    steps = life.first.steps
    at = place(steps, first)
    if at is None and (fault := life.fault) and "parts" in fault:
        if Step(fault["optimizer"], fault["parts"]).weights == first.weights:
            at = len(steps)
    return None if at is None else len(earlier) + at, [*earlier, *steps]


def _difference(
    base: Life,
    reference: Sequence[Step],
    life: Life,
    at: int,
    comparable: Comparable,
    exact: bool,
) -> Difference | None:
    """The first difference that matters, of all ranks."""
    if not exact:
        # later steps may differ by themselves
        steps = life.first.steps
        own = first_difference(reference, steps[:1], at, only=CARRIED)
        own = own or next(first_steps(reference, steps, at), None)
        return replace(own, reference="the run before the fault") if own else None
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


# --- what a fault makes of a problem --------------------------------------------------------------


def _under(outcome: Outcome, problem: Problem, struck: Life) -> Problem:
    """The problem that this one is, under this fault."""
    fault = outcome.fault
    code = ""
    stops = problem.code in ("no-restart", "hangs")
    wrong = problem.code in ("state-lost", "unknown-weights")
    if fault.kind == POWER and stops:
        code = "power-loss-stops"
    elif fault.kind == POWER and (wrong or problem.code == "starts-over"):
        code = "power-loss-silent"
    elif fault.kind in DAMAGE and wrong and _in_a_file(outcome, problem):
        code = "flip-unnoticed" if fault.kind == FLIP else "damage-unnoticed"
    elif fault.kind in DAMAGE and stops:
        older = len(large(struck)) > len(of_newest_save(struck))
        code = "damaged-newest" if older else "only-checkpoint"
    return replace(problem, code=code, was=problem.code) if code else problem


def _in_a_file(outcome: Outcome, problem: Problem) -> bool:
    """Files hold no batches: such a loss isn't due to a damaged one.

    A generator may have a file of its own, which matters if the damaged checkpoint was loaded.
    """
    if problem.difference is None or problem.difference.cause in CARRIED:
        return True
    loaded = outcome.resumed is not None and outcome.resumed > (outcome.save or 0)
    return loaded and problem.difference.cause in GENERATORS
