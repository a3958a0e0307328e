"""Judges what faults make of the files: older checkpoints, values in them, leftovers, growth."""

from __future__ import annotations

import os
import re

from grader.audit.faults import FULL, KILL, POWER, TEAR
from grader.audit.history import File, Life, Process, Saved, nameless
from grader.audit.problems import Outcome, Problem

SMALL = 0.1  # of the largest file's size: smaller files are no checkpoints
RATE = "learning rate"  # among what is saved: of its optimizers (boot/grade_audit_state.py)
MANY = 4  # saves, after which it shows whether old ones are deleted
SLACK = 0.01  # s that the clock of files may be behind that of processes
# values that differ after a resume in a right job, too
EXPECTED = re.compile(
    r"rng|random|seed|generator|time(?!_?step)|(^|_)date|second|elapsed|speed|uuid|host|^pid$"
    r"|^(args?|argv|arguments|cfg|conf|config|hparams|hyper_?parameters)$|resume",
    re.I,
)
# values that aren't tensors, and whose loss changes the result
TELLING = re.compile(
    r"best|swa|^ema($|_)|(^|_)(min|max|lowest|highest)_|patience|no_improve|bad_epochs", re.I
)


def numberless(name: str) -> str:
    """Equal for the same file of different saves."""
    return re.sub(r"\d+", "N", name)


def large(life: Life) -> list[File]:
    """The files that it left and that may be checkpoints."""
    logs = {name for process in life.ranks.values() for name in process.logs()}
    files = [f for f in life.left if f.name not in logs] or life.left
    largest = max((f.size for f in files), default=0)
    return [f for f in files if f.size and f.size > SMALL * largest]


def of_newest_save(life: Life) -> list[File]:
    """The large files of the last save, the newest one first."""
    files = sorted(large(life), key=lambda f: (-f.written, f.name))
    if not files:
        return []
    since = max(map(_last_save_began, life.ranks.values()), default=0.0)
    since = min(since, files[0].written)
    return [f for f in files if f.written >= since]


def beside(life: Life) -> list[File]:
    """The small files in the folders of the last save, such as counters and lists of files."""
    newest = of_newest_save(life)
    folders = {os.path.dirname(f.name) for f in newest} - {""}
    return [f for f in life.left if os.path.dirname(f.name) in folders and f not in newest]


def _last_save_began(process: Process) -> float:
    """When the files of its last save were written at the earliest, by the clock of files."""
    saves = process.saves()
    if not saves:
        return 0.0
    before = saves[-2].events[-1].time if len(saves) > 1 else 0.0
    return max(saves[-1].events[0].time - SLACK, before)


def judge_older(outcomes: list[Outcome], saves: dict[int, frozenset[str]]) -> None:
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
            text = f"resumed from the save of step {outcome.resumed}, not of step {outcome.save}"
            code = "power-loss-older" if outcome.fault.kind == POWER else "loses-more"
            outcome.problems.append(Problem(code, text=text))


def excuse_starts(outcomes: list[Outcome], saves: dict[int, frozenset[str]]) -> None:
    """Removes "starts-over" where only logs had been written: nothing that any run resumed from."""
    used = [saves[o.resumed] for o in outcomes if o.resumed in saves]
    if not used:
        return
    needed = frozenset.intersection(*used)
    for outcome in outcomes:
        until = outcome.save or 0
        if not any(needed <= files for step, files in saves.items() if step <= until):
            outcome.problems = [p for p in outcome.problems if "starts-over" not in (p.code, p.was)]


# --- values in checkpoints ------------------------------------------------------------------------


def judge_saved(outcome: Outcome, base: Life, again: Life, life: Life) -> None:
    """Adds what a resumed run saves otherwise than the undisturbed one, where training is equal.

    Such as an average of the weights that the job keeps by itself, or its best result.
    """
    if not outcome.identical:
        return
    stable = _equal_in(base.first, again.first)
    changed = _changed(base.first, life.first, stable, outcome.resumed)
    for name, tensors in changed.items():
        if name == RATE:
            text = (
                "no step has used it yet, but a save holds another one than the undisturbed run's"
            )
            outcome.problems.append(Problem("state-lost", text=text, component=name))
            continue
        wrong = tensors or TELLING.search(name)
        code = "saved-state-lost" if wrong else "saved-value-lost"
        text = f"{name!r} isn't what the undisturbed run saved at the same step"
        outcome.problems.append(Problem(code, text=text, component=name))


def _equal_in(a: Process, b: Process) -> set[str]:
    """The keys whose values two undisturbed runs saved alike."""
    keys = {key for saved in a.saved for key in saved.parts}
    if len(a.saved) != len(b.saved):
        return set()
    for x, y in zip(a.saved, b.saved, strict=True):
        keys -= {key for key in keys if x.parts.get(key) != y.parts.get(key)}
    return {key for key in keys if not EXPECTED.search(key)}


def _changed(base: Process, life: Process, stable: set[str], at: int | None) -> dict[str, bool]:
    """Key -> does it hold tensors, of those that differ in any save.

    Of the undisturbed run's saves at the same step, the one that agrees in most tensors is meant.
    In a thread, a save may be some steps late: then one must agree in some.
    """
    changed = {}
    exact = not (base.asynchronous or at is None)
    for saved in life.saved:
        alike = [other for other in base.saved if other.parts.keys() == saved.parts.keys()]
        here = [other for other in alike if exact and other.step == saved.step + (at or 0)]
        same = max(here or alike, key=lambda other: _agreeing(other, saved), default=None)
        if same is None or not (here or _agreeing(same, saved)):
            continue
        for key in saved.parts.keys() & stable:
            if saved.parts[key] != same.parts[key]:
                changed[key] = key in saved.tensors
    return changed


def _agreeing(a: Saved, b: Saved) -> int:
    return sum(a.parts[key] == b.parts[key] for key in a.tensors & b.tensors)


# --- files ----------------------------------------------------------------------------------------


def judge_leftovers(outcome: Outcome, base: Life, struck: Life, last: Life) -> None:
    """Adds what an interrupted save wrote and no later life has removed."""
    if outcome.fault.kind not in (KILL, TEAR, FULL, POWER) or not outcome.fault.in_a_save:
        return
    if outcome.identical is False or last.status != 0:
        return
    step = outcome.fault.step
    begun = {event.path for event in struck.first.files if event.step == step and event.writes}
    usual = {nameless(f.name) for f in base.left}
    left = [f for f in last.left if f.name in begun and nameless(f.name) not in usual]
    # a name that a later save uses again isn't left over, and one without a number may be used
    fresh = [f for f in left if struck.began and f.written < last.began]
    if fresh:
        names = ", ".join(f"{f.name} ({size(f.size)})" for f in fresh)
        text = f"still there at the end: {names}"
        outcome.problems.append(Problem("leftovers", text=text))


def judge_never_saves(outcomes: list[Outcome], base: Life) -> None:
    """Adds that nothing was saved while it trained, if no run resumed from anything."""
    total = len(base.first.steps)
    if any(save.step < total for save in base.first.saves()) or any(o.resumed for o in outcomes):
        return
    for outcome in outcomes:
        # None: two undisturbed runs differ, so that a start from new weights can't be recognized
        if outcome.happened and not outcome.resumed and not outcome.problems:
            text = f"nothing was written below {{out}} before step {total}, the last one"
            outcome.problems.append(Problem("never-saves", text=text))


def growth(base: Life) -> Problem | None:
    """A problem if each save of an undisturbed run leaves its files behind."""
    saves = base.first.saves()
    if len(saves) < MANY:
        return None
    kinds: dict[str, list[File]] = {}
    for file in large(base):
        kinds.setdefault(numberless(file.name), []).append(file)
    kept = max(kinds.values(), key=len, default=[])
    if len(kept) < len(saves):
        return None
    text = (
        f"{len(saves)} saves left {len(kept)} files of {size(kept[0].size)}, such as "
        f"{kept[0].name}: none was deleted"
    )
    return Problem("disk-grows", text=text)


def size(number: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
