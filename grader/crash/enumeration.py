"""Every state of the disk that a crash may leave, at any moment of a record.

A process's death loses nothing that a call has done: the page cache is the kernel's. So its states
are the prefixes of the record, with the last write torn. What a power failure may take in addition
depends on the file system: file_systems.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from grader.crash.file_systems import FILE, MODELS, situations
from grader.crash.operations import (
    Disk,
    Entries,
    Mark,
    Names,
    Op,
    Tree,
    Truncate,
    Write,
    apply,
    paths,
    written,
)

PROCESS = "process"
TEARS = 8  # places at which one write is torn
# states; of the moments after so many, only what is there if nothing or all of it is lost
MANY = 20_000


TITLES = {PROCESS: "the process dies"} | {name: m.title for name, m in MODELS.items()}


@dataclass(frozen=True)
class Promise:
    """What a reader must find, at one moment."""

    durable: int = 0  # the last save that had returned; 0: none had
    under_way: frozenset[int] = frozenset()  # saves that had begun and not returned


@dataclass
class State:
    """One state of the disk, and how it came about."""

    moment: int  # how many operations had been done
    torn: int | None  # bytes of the last of them, if it was a write that was cut short
    promise: Promise
    tree: Tree
    lost: tuple[str, ...] = ()  # what hadn't reached the disk, as text
    models: set[str] = field(default_factory=set)  # on which it may come about


# of a tree: each path with what lies there, where a number stands for a file's content
Key = tuple[tuple[str, "int | str | None"], ...]


@dataclass
class Space:
    """All states of a record."""

    states: list[State]
    trees: dict[Key, Tree]  # the different ones, by key
    keys: list[Key]  # of each state
    moments: int
    interned: dict[bytes, int]  # contents, by the number that keys hold
    bounded: int = 0  # moments at which not every combination was tried


def promises(ops: list[Op]) -> list[Promise]:
    """What holds before the first operation, and after each."""
    found, durable = [Promise()], 0
    under_way: frozenset[int] = frozenset()
    for op in ops:
        if isinstance(op, Mark):
            if op.kind == "began":
                under_way |= {op.save}
            elif op.kind == "returned" and op.save > durable:
                durable, under_way = op.save, frozenset(n for n in under_way if n > op.save)
        found.append(Promise(durable, under_way))
    return found


def space(
    disk: Disk,
    ops: list[Op],
    models: list[str] | None = None,
    since: int = 0,
    interned: dict[bytes, int] | None = None,
) -> Space:
    """The states that a crash may leave after `since` operations or later; each once for every
    promise that it may have to keep. Spaces that share `interned` have equal keys for equal trees.
    """
    wanted = list(TITLES) if models is None else models
    contract = promises(ops)
    found: dict[tuple[Key, Promise], State] = {}
    trees: dict[Key, Tree] = {}
    interned = {} if interned is None else interned
    bounded: set[int] = set()

    def add(
        model: str,
        moment: int,
        torn: int | None,
        entries: Entries,
        contents: dict[int, bytes],
        lost: tuple[str, ...],
        promise: Promise,
    ) -> None:
        tree = _tree(disk, entries, contents)
        tree_key = tuple(
            (path, interned.setdefault(c, len(interned)) if isinstance(c, bytes) else c)
            for path, c in tree.items()
        )
        tree = trees.setdefault(tree_key, tree)
        full = (tree_key, promise)
        state = State(moment, torn, promise, tree, lost, {model})
        if known := found.get(full):
            state.models |= known.models
            if (len(known.lost), known.moment) <= (len(lost), moment):
                known.models = state.models
                return
        found[full] = state

    for model in wanted:
        if model == PROCESS:
            for moment, torn, entries, contents in _prefixes(disk, ops, since):
                add(
                    model,
                    moment,
                    torn,
                    entries,
                    contents,
                    (),
                    contract[moment if torn is None else moment - 1],
                )
        else:
            for it in situations(disk, ops, MODELS[model], since):
                combos, whole = it.combinations(few=len(found) > MANY)
                named = (
                    {inode: path for path, inode in paths(it.entries, disk).items()}
                    if it.choices
                    else {}
                )
                for combo in combos:
                    contents = it.now | {
                        i: content for i, (content, _) in zip(it.choices, combo, strict=False)
                    }
                    lost = it.lost + tuple(
                        text.replace(FILE, named.get(i, "a file"))
                        for i, (_, text) in zip(it.choices, combo, strict=False)
                        if text
                    )
                    add(model, it.moment, None, it.entries, contents, lost, contract[it.moment])
                if not (whole and it.whole):
                    bounded.add(it.moment)
    states = sorted(found.items(), key=lambda item: (item[1].moment, len(item[1].lost)))
    return Space(
        [s for _, s in states],
        trees,
        [key for (key, _), _ in states],
        len(ops) + 1 - since,
        interned,
        len(bounded),
    )


def reachable(
    disk: Disk,
    ops: list[Op],
    model: str,
    wanted: set[tuple[Key, Promise]],
    trees: dict[Key, Tree],
) -> set[tuple[Key, Promise]]:
    """Which of the `wanted` (key in `trees`, promise) a power failure may leave at some moment: as
    `space` would have it, and more, since it needn't try every combination to say so.
    """
    contract = promises(ops)
    alike: dict[object, set[tuple[Key, Promise]]] = {}  # names and promise -> those wanted
    for key, promise in wanted:
        alike.setdefault((tuple(trees[key]), promise), set()).add((key, promise))
    found: set[tuple[Key, Promise]] = set()
    for it in situations(disk, ops, MODELS[model]):
        inodes = paths(it.entries, disk)
        for one in alike.get((tuple(inodes), contract[it.moment]), set()) - found:
            if it.allows(trees[one[0]], inodes):
                found.add(one)
    return found


def thin(found: Space, most: int) -> int:
    """Keep at most `most` trees. Returns how many were left out.

    First, half of them at most, evenly drawn ones that a killed process leaves. Then those in which
    a mistake in the order of syncs shows: for any two files, one is there, whole, and the other one
    isn't. Then others, evenly drawn.
    """
    if len(found.trees) <= most:
        return 0
    killed = list(
        dict.fromkeys(
            key for s, key in zip(found.states, found.keys, strict=False) if PROCESS in s.models
        )
    )
    kept: dict[Key, None] = dict.fromkeys(_evenly(killed, most // 2))
    for key in _telling(found, set(kept)):
        if len(kept) < most:
            kept[key] = None
    others = [key for key in dict.fromkeys(found.keys) if key not in kept]
    kept |= dict.fromkeys(_evenly(others, most - len(kept)))
    return keep(found, set(kept))


def _evenly(keys: list[Key], most: int) -> list[Key]:
    return keys if len(keys) <= most else [keys[n * len(keys) // most] for n in range(most)]


def _telling(found: Space, known: set[Key]) -> Iterator[Key]:
    """Trees which together show each pair (this one is whole, that one is missing or isn't whole)
    that any tree shows under the same promise; those that show most come first.
    """
    # path -> its content, when its last write under this promise was done
    last: dict[Promise, dict[str, object]] = {}
    for s, key in zip(found.states, found.keys, strict=False):
        if not s.lost and s.torn is None:
            last.setdefault(s.promise, {}).update(key)
    pairs: dict[object, int] = {}  # what was numbered so
    shows: dict[Key, int] = {}  # tree -> bits of the pairs that it shows
    for s, key in zip(found.states, found.keys, strict=False):
        there, whole = dict(key), last.get(s.promise, {})
        present = [path for path in whole if path in there and there[path] == whole[path]]
        lost = [
            (path, path in there)
            for path in whole
            if path not in there or there[path] != whole[path]
        ]
        for one in present:
            for other in lost:
                number = pairs.setdefault((s.promise, one, other), len(pairs))
                shows[key] = shows.get(key, 0) | 1 << number
    seen = 0
    for key in known:
        seen |= shows.get(key, 0)
    while shows:
        best = max(shows, key=lambda key: (shows[key] & ~seen).bit_count())
        new = shows.pop(best) & ~seen
        if not new:
            return
        seen |= new
        yield best


def keep(found: Space, kept: Collection[object]) -> int:
    """Keep the trees with these keys; how many others there were."""
    left = len(found.trees.keys() - kept)
    pairs = [(s, key) for s, key in zip(found.states, found.keys, strict=False) if key in kept]
    found.states, found.keys = [s for s, _ in pairs], [key for _, key in pairs]
    found.trees = {key: tree for key, tree in found.trees.items() if key in kept}
    return left


def final(disk: Disk, ops: list[Op]) -> Tree:
    """What is on disk after all operations, if nothing is lost."""
    *_, (_, _, entries, contents) = _prefixes(disk, ops, len(ops))
    return _tree(disk, entries, contents)


def _tree(disk: Disk, entries: Entries, contents: dict[int, bytes]) -> Tree:
    return {
        path: None if inode in disk.directories else disk.links.get(inode, contents.get(inode, b""))
        for path, inode in paths(entries, disk).items()
    }


# --- the process dies -----------------------------------------------------------------------------


def _prefixes(
    disk: Disk, ops: list[Op], since: int
) -> Iterator[tuple[int, int | None, Entries, dict[int, bytes]]]:
    entries, contents = dict(disk.before), dict(disk.contents)
    if since == 0:
        yield 0, None, dict(entries), dict(contents)
    for moment, op in enumerate(ops, 1):
        if isinstance(op, Names):
            apply(entries, op)
        elif isinstance(op, (Write, Truncate)):
            before = contents.get(op.inode, b"")
            if isinstance(op, Write) and moment > since:
                for n in _tears(op):
                    yield moment, n, dict(entries), contents | {op.inode: written(before, op, n)}
            contents[op.inode] = written(before, op)
        if moment >= since:
            yield moment, None, dict(entries), dict(contents)


def _tears(op: Write) -> list[int]:
    """Where a write is cut: one byte in, in the middle, one byte before its end, and where one call
    ended and the next began.
    """
    n = len(op.data)
    parts = op.parts[:-1]
    if len(parts) > TEARS:
        parts = [parts[round(i * (len(parts) - 1) / (TEARS - 1))] for i in range(TEARS)]
    return sorted({1, n // 2, n - 1, *parts} & set(range(1, n)))
