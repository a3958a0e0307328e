"""Which outcomes break the promise that a save makes, and which state shows it best.

The promise: once a save has returned, a load returns its state or a later one, whole, whatever
happens. Until then, it may return the state before or the one being saved. A load that finds
nothing durable may return None or raise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from grader.crash.enumeration import PROCESS, Key, Promise, Space, State, reachable
from grader.crash.judge import Outcome
from grader.crash.operations import Disk, Mark, Names, Op, Sync, Tree, Write

ENOUGH = 200  # most failures for which a remedy is sought; of more, this many are drawn evenly

# what is wrong, worst first, and what it means
KINDS = {
    "wrong state": "training silently continues from a state that never existed",
    "old state": "a state that was reported as saved is gone",
    "nothing": "the job silently starts over",
    "error": "the job fails at every start",
    "died": "the job dies at every start",
    "late": "the job hangs at every start",
    "first save": "no save had finished, and the job can never start",
}


def broken(
    outcome: Outcome, promise: Promise, digests: dict[int, str], fresh: str = "any"
) -> str | None:
    """How an outcome breaks the promise, a key of KINDS; None if it keeps it.

    digests   save -> digest of its state
    fresh     what a load must do when no save has returned: "any", or "none" (raising isn't
              allowed)
    """
    if outcome.kind == "state":
        allowed = promise.under_way | ({promise.durable} if promise.durable else set())
        saves = {n for n, digest in digests.items() if digest == outcome.digest}
        if saves & allowed:
            return None
        return "old state" if any(n < promise.durable for n in saves) else "wrong state"
    if promise.durable:
        return {"none": "nothing"}.get(outcome.kind, outcome.kind)
    if outcome.kind in ("died", "late"):
        return outcome.kind
    return "first save" if outcome.kind == "error" and fresh == "none" else None


@dataclass
class Failure:
    state: State
    key: Key  # of its tree
    outcome: Outcome
    kind: str


def failures(
    found: Space, outcomes: Mapping[Any, Outcome], digests: dict[int, str], fresh: str = "any"
) -> list[Failure]:
    """Of all states, those whose outcome breaks the promise; the smallest first: a dead process
    before a dead machine, what any file system does before what only some do, few losses before
    many, early before late.
    """
    out = []
    for state, key in zip(found.states, found.keys, strict=False):
        kind = broken(outcomes[key], state.promise, digests, fresh)
        if kind:
            out.append(Failure(state, key, outcomes[key], kind))
    kinds = list(KINDS)

    def size(f: Failure) -> tuple[bool, int, int, int, int, int]:
        return (
            PROCESS not in f.state.models,
            len(f.state.lost),
            -len(f.state.models),
            kinds.index(f.kind),
            f.state.moment,
            f.state.torn or 0,
        )

    return sorted(out, key=size)


# --- the call that is missing ---------------------------------------------------------------------


@dataclass
class Remedy:
    """A call that prevents failures where the record lacks it."""

    text: str
    at: int  # before which operation
    op: Sync
    prevents: int = 0  # how many of the failures come back without it
    late: bool = False  # the call is made, but only later
    early: bool = False  # the call is made, but before these bytes were written


def remedies(
    disk: Disk, ops: list[Op], failing: list[Failure], trees: dict[Key, Tree]
) -> list[Remedy]:
    """Syncs that prevent the failures of one save (or as many as syncs can), none of them
    superfluous, in the order of the record. It's the save of the first failure, which is the one
    that is shown, or where no sync helps that one, the first save with failures: the others lack
    the same calls.
    """
    shown = failing[0].state
    moment = min(f.state.moment for f in failing) if PROCESS in shown.models else shown.moment
    marks = [(n, op.kind) for n, op in enumerate(ops, 1) if isinstance(op, Mark)]
    begin = max((n for n, kind in marks if n <= moment and kind == "began"), default=0)
    end = min((n for n, kind in marks if n >= moment and kind == "returned"), default=len(ops))
    ops = ops[:end]
    of_model: dict[str, set[tuple[Key, Promise]]] = {}
    for f in _some([f for f in failing if begin <= f.state.moment <= end]):
        for model in f.state.models - {PROCESS}:
            of_model.setdefault(model, set()).add((f.key, f.state.promise))

    def still(extra: list[Remedy]) -> set[tuple[str, Key, Promise]]:
        longer = _with(ops, extra)
        return {
            (model, *one)
            for model, wanted in of_model.items()
            for one in reachable(disk, longer, model, wanted, trees)
        }

    # all candidates, then without each in turn, as long as no failure comes back
    chosen = _candidates(disk, ops)
    left = still(chosen)
    for candidate in list(chosen):
        without = [c for c in chosen if c is not candidate]
        again = still(without) - left
        if again:
            candidate.prevents = len({one[1:] for one in again})
        else:
            chosen = without
    return [remedy for remedy in chosen if remedy.at >= begin] or chosen


def _some(failing: list[Failure]) -> list[Failure]:
    """Enough of them to tell which calls are missing."""
    return (
        failing
        if len(failing) <= ENOUGH
        else [failing[n * len(failing) // ENOUGH] for n in range(ENOUGH)]
    )


def _candidates(disk: Disk, ops: list[Op]) -> list[Remedy]:
    out = []
    unsynced: set[int] = set()
    for at, op in enumerate(ops):
        following = ops[at + 1] if at + 1 < len(ops) else None
        if isinstance(op, Write):
            unsynced.add(op.inode)
            if not (isinstance(following, Write) and following.inode == op.inode):
                name = op.text.removeprefix("write ")
                late = any(
                    isinstance(o, Sync) and o.worked and o.inode == op.inode for o in ops[at + 1 :]
                )
                early = not late and _synced_in_this_save(ops[:at], op.inode)
                sync = Sync(inode=op.inode)
                out.append(Remedy(f"fsync of {name}", at + 1, sync, late=late, early=early))
        if isinstance(op, Names):
            for directory in dict.fromkeys(d for d, _, _, after in op.changes if after is not None):
                name = (
                    "the directory"
                    if directory == 0
                    else f"the directory {disk.names.get(directory, '')}"
                )
                out.append(Remedy(f"fsync of {name}", at + 1, Sync(inode=directory)))
    return out


def _synced_in_this_save(before: list[Op], inode: int) -> bool:
    for op in reversed(before):
        if isinstance(op, Mark):
            return False
        if isinstance(op, Sync) and op.worked and op.inode == inode:
            return True
    return False


def _with(ops: list[Op], extra: list[Remedy]) -> list[Op]:
    out = list(ops)
    for remedy in sorted(extra, key=lambda r: -r.at):
        out.insert(remedy.at, replace(remedy.op))
    return out
