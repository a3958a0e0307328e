"""Which outcomes break the promise that a save makes, and which state shows it best.

The promise: once a save has returned, a load gives its state, or a later one, whole, whatever happens. Until then the
one before counts, or the one under way. A load that finds nothing durable may return None or raise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from grader.crash.disk import Disk, Mark, Names, Op, Sync, Write
from grader.crash.judge import Outcome
from grader.crash.states import PROCESS, Promise, Space, State, space

# what is wrong, worst first, and what it means
KINDS = {
    "wrong state": "training goes on from a state that never was, and nothing says so",
    "old state": "what had been reported as saved is gone",
    "nothing": "the job starts over, and nothing says so",
    "error": "the job fails at every start",
    "died": "the job dies at every start",
    "late": "the job hangs at every start",
    "first save": "no save had ended, and the job can never start",
}


def broken(outcome: Outcome, promise: Promise, digests: dict[int, str], fresh: str = "any") -> str | None:
    """What of the promise an outcome breaks, a key of KINDS; None if it keeps it.

    digests   save -> digest of its state
    fresh     what a load must do when no save has returned: "any", or "none" (raising isn't allowed)
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
    key: tuple  # of its tree
    outcome: Outcome
    kind: str


def failures(found: Space, outcomes: dict[tuple, Outcome], digests: dict[int, str], fresh: str = "any") -> list[Failure]:
    """Of all states, those whose outcome breaks the promise; the smallest first: a dead process before a dead machine,
    what any file system does before what only some do, few losses before many, early before late."""
    out = []
    for state, key in zip(found.states, found.keys):
        kind = broken(outcomes[key], state.promise, digests, fresh)
        if kind:
            out.append(Failure(state, key, outcomes[key], kind))
    kinds = list(KINDS)

    def size(f: Failure):
        return (PROCESS not in f.state.models, len(f.state.lost), -len(f.state.models), kinds.index(f.kind), f.state.moment, f.state.torn or 0)

    return sorted(out, key=size)


# --- the call that is missing ---------------------------------------------------------------------------


@dataclass
class Remedy:
    """A call that, put into the record, rules failures out."""

    text: str
    at: int  # before which operation
    op: Sync
    prevents: int = 0  # how many of the failures
    late: bool = False  # the call is made, but only later


def remedies(disk: Disk, ops: list[Op], failing: list[Failure], interned: dict[bytes, int]) -> list[Remedy]:
    """The fewest syncs that rule out the failures (or as many as syncs can), in the order of the record. Looked for up to
    the end of the first save that has any: the others have the same."""
    first = min(f.state.moment for f in failing)
    end = next((n for n, op in enumerate(ops, 1) if n >= first and isinstance(op, Mark) and op.kind == "returned"), len(ops))
    ops, failing = ops[:end], [f for f in failing if f.state.moment <= end]
    power = sorted({m for f in failing for m in f.state.models if m != PROCESS})

    def reachable(extra: list[Remedy]) -> set:
        found = space(disk, _with(ops, extra), power, interned=interned)
        return {(key, s.promise) for s, key in zip(found.states, found.keys)}

    left = {(f.key, f.state.promise) for f in failing if PROCESS not in f.state.models}
    chosen: list[Remedy] = []
    while left and len(chosen) < 4:
        best, best_left = None, left
        for candidate in _candidates(disk, ops):
            if any((c.at, c.op.inode) == (candidate.at, candidate.op.inode) for c in chosen):
                continue
            remaining = left & reachable([*chosen, candidate])
            if len(remaining) < len(best_left):
                best, best_left = candidate, remaining
        if best is None:
            if chosen or not (pair := _pair(_candidates(disk, ops), left, reachable)):
                break
            chosen += pair[0]
            left = pair[1]
            continue
        best.prevents = len(left) - len(best_left)
        chosen.append(best)
        left = best_left
    return sorted(chosen, key=lambda r: r.at)


def _pair(every: list[Remedy], left: set, reachable: Callable[[list[Remedy]], set]):
    """Two syncs of which neither helps alone."""
    for n, a in enumerate(every):
        for b in every[n + 1 :]:
            remaining = left & reachable([a, b])
            if len(remaining) < len(left):
                a.prevents = b.prevents = len(left) - len(remaining)
                return [a, b], remaining
    return None


def _candidates(disk: Disk, ops: list[Op]) -> list[Remedy]:
    out = []
    unsynced: set[int] = set()
    for at, op in enumerate(ops):
        following = ops[at + 1] if at + 1 < len(ops) else None
        if isinstance(op, Write):
            unsynced.add(op.inode)
            if not (isinstance(following, Write) and following.inode == op.inode):
                name = op.text.removeprefix("write ")
                late = any(isinstance(o, Sync) and o.worked and o.inode == op.inode for o in ops[at + 1 :])
                out.append(Remedy(f"fsync of {name}", at + 1, Sync(inode=op.inode), late=late))
        if isinstance(op, Names):
            for directory in dict.fromkeys(d for d, _, _, after in op.changes if after is not None):
                name = "the directory" if directory == 0 else f"the directory {disk.names.get(directory, '')}"
                out.append(Remedy(f"fsync of {name}", at + 1, Sync(inode=directory)))
    return out


def _with(ops: list[Op], extra: list[Remedy]) -> list[Op]:
    out = list(ops)
    for remedy in sorted(extra, key=lambda r: -r.at):
        out.insert(remedy.at, replace(remedy.op))
    return out

