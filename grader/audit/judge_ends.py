"""Judges how lives ended: early or late, at a signal, after the last step, or not by themselves;
and if they trained at all.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from grader.audit import words
from grader.audit.compare import Difference
from grader.audit.history import NOTHING, Life, Step
from grader.audit.problems import Outcome, Problem

TOO_FAR = 3  # steps after a signal that are no longer the end of what was under way


def how(life: Life) -> str:
    """How a life ended, in a few words."""
    if life.ended == "wall":
        return "still running at the time limit"
    if life.ended:
        return f"stopped by the {life.ended} limit"
    if life.status == -signal.SIGXFSZ:
        return "killed while it wrote a file"
    if life.status is not None and life.status < 0:
        return f"killed by {signal.Signals(-life.status).name}"
    return f"exit status {life.status}"


def _says(life: Life) -> str:
    said = how(life)
    return f"exited with status {life.status}" if said.startswith("exit") else f"was {said}"


def well(outcome: Outcome, life: Life, at: int | None, done: int, total: int) -> bool:
    """Can the rest of this last life be judged? Adds a problem unless it ended with status 0.

    at  how many steps were done where it continued
    """
    if not life.ended and life.status == 0:
        return True
    trained = len(life.first.steps)
    if at is not None and at + trained >= total:
        outcome.problems.append(after_the_last_step(life))
        return True
    did = words.steps(trained) if trained else "no steps"
    text = f"stopped after step {done}; the relaunch did {did} and {_says(life)}"
    code = "hangs" if life.ended == "wall" else "stops-again" if trained else "no-restart"
    outcome.problems.append(Problem(code, text=text))
    return False


def after_the_last_step(life: Life) -> Problem:
    """Of a life that did all its steps, and didn't end with status 0."""
    text = f"after its last step, the job {_says(life)}"
    return Problem("hangs-at-exit" if life.ended == "wall" else "fails-at-exit", text=text)


def trains_nothing(outcome: Outcome, expected: Sequence[Step], first: Step) -> bool:
    """Adds a problem if a life's optimizer holds other weights than those that are trained."""
    if not expected or first.parts.get("gradients") != NOTHING:
        return False
    if expected[0].parts.get("gradients", NOTHING) == NOTHING:
        return False
    outcome.identical = False
    text = "after the resume, none of the optimizer's parameters has a gradient"
    outcome.problems.append(Problem("not-trained", text=text))
    return True


def at_the_end(outcome: Outcome, base: Life, life: Life, at: int) -> None:
    """What is left when a life has trained to its end."""
    total, reached = len(base.first.steps), at + len(life.first.steps)
    same = outcome.identical
    length(outcome, reached, total)
    ends = base.first.end, life.first.end
    if same and reached == total and None not in ends and ends[0] != ends[1]:
        outcome.identical = False
        outcome.problems.append(Problem("state-lost", Difference(total + 1, ["weights"])))


def length(outcome: Outcome, reached: int, total: int) -> None:
    if reached == total:
        return
    outcome.identical = False
    code = "steps-missing" if reached < total else "steps-repeated"
    text = f"the run ended after {words.steps(reached)}, the undisturbed one after {total}"
    outcome.problems.append(Problem(code, text=text))


# --- signals --------------------------------------------------------------------------------------


def stop(outcome: Outcome, struck: Life, total: int) -> None:
    """How a job took a signal that announces its end."""
    name = _name(outcome)
    after = outcome.reached - outcome.fault.step
    finished = outcome.reached >= total
    if struck.grace_over and finished and after < TOO_FAR:
        text = f"it did its last step, and was still running {_grace(outcome)} after {name}"
        outcome.problems.append(Problem("hangs-at-exit", text=text))
    elif struck.grace_over:
        text = f"{after or 'no'} more steps in {_grace(outcome)}, then SIGKILL"
        outcome.problems.append(Problem("ignores-signal", text=text))
    elif finished and after >= TOO_FAR:
        text = f"it trained its last {after} steps after {name}; a longer job would be killed"
        outcome.problems.append(Problem("ignores-signal", text=text))
    elif struck.status == 0 and not finished:
        left = words.steps(total - outcome.reached)
        text = f"exit status 0 after {name}, {left} before the end"
        outcome.problems.append(Problem("exit-status", text=text))


def work_at_signal(outcome: Outcome) -> None:
    ignored = any(problem.code == "ignores-signal" for problem in outcome.problems)
    if not ignored and outcome.lost:
        lost, name = words.steps(outcome.lost), _name(outcome)
        text = f"{lost} lost, although {name} gave the job {_grace(outcome)} to save"
        outcome.problems.append(Problem("no-save-at-signal", text=text))


def _name(outcome: Outcome) -> str:
    return signal.Signals(outcome.fault.spec["number"]).name


def _grace(outcome: Outcome) -> str:
    return f"{outcome.fault.spec['grace']:.0f} s"
