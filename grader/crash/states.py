"""Every state of the disk that a crash may leave, at any moment of a record.

A process's death loses nothing that a call has done: the page cache is the kernel's. So its states are the prefixes
of the record, with the last write torn. When the power goes, or the kernel does, what no sync has made durable may be
there, in part, or not. How much may be missing, and in which order, is the file system's affair:

    ext4        metadata in the order of the calls (one journal); bytes that were never synced may be missing, and the
                file's size with them; a rename over an existing file sends the source's bytes ahead (auto_da_alloc).
                fsync of anything commits the journal up to its last change.
    ext4-wb     data=writeback: as ext4, and a file may have its new size and zeros in it.
    xfs         metadata in order; files may have holes of zeros; nothing is sent ahead of a rename.
    nfs         names are the server's, durable at once; of bytes that weren't synced, any may be missing.
    posix       what the standard promises and no more: names that weren't synced (fsync of their directory) come and go
                in any order.

Sources: Documentation/filesystems/ext4 (admin-guide), fs/ext4/namei.c (ext4_rename, auto_da_alloc), fs/xfs (i_size is
written when the data is), RFC 8881 (stable storage), POSIX.1-2017 fsync and rename; Pillai et al., "All File Systems
Are Not Created Equal" (OSDI 2014), whose ALICE enumerates like this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, product

from grader.crash.disk import (
    Disk,
    Entries,
    Mark,
    Names,
    Op,
    Sync,
    SyncAll,
    Tree,
    Truncate,
    Write,
    apply,
    paths,
    written,
)

PROCESS = "process"
FULL = 64  # combinations of files' contents at one moment and with the same names, up to which all are tried
SUBSETS = 6  # unsynced changes of names, up to which every subset is tried
FILE = "\0"  # stands for a file's name, which is another one in every state
TEARS = 8  # places at which one write is torn


@dataclass(frozen=True)
class Model:
    """What a file system may lose when the power goes."""

    name: str
    title: str
    names: str  # of changes that weren't synced, which may be there: a "prefix", any "subset", or "all" are
    holes: bool  # a file may have its size before it has its bytes
    flushed_by_rename: bool = False  # a rename over an existing file waits for the source's bytes


MODELS = {
    m.name: m
    for m in (
        Model("ext4", "ext4, data=ordered", "prefix", holes=False, flushed_by_rename=True),
        Model("ext4-wb", "ext4, data=writeback", "prefix", holes=True, flushed_by_rename=True),
        Model("xfs", "XFS", "prefix", holes=True),
        Model("nfs", "network file system", "all", holes=True),
        Model("posix", "POSIX, no more", "subset", holes=True),
    )
}
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


@dataclass
class Space:
    """All states of a record."""

    states: list[State]
    trees: dict[tuple, Tree]  # the different ones, by key
    keys: list[tuple]  # of each state
    moments: int
    interned: dict[bytes, int]  # contents, by the number that keys hold
    bounded: int = 0  # moments at which not every combination was tried


def promises(ops: list[Op]) -> list[Promise]:
    """What holds before the first operation, and after each."""
    found, durable, under_way = [Promise()], 0, frozenset()
    for op in ops:
        if isinstance(op, Mark):
            if op.kind == "began":
                under_way |= {op.save}
            elif op.kind == "returned" and op.save > durable:
                durable, under_way = op.save, frozenset(n for n in under_way if n > op.save)
        found.append(Promise(durable, under_way))
    return found


def space(disk: Disk, ops: list[Op], models: list[str] | None = None, since: int = 0, interned: dict[bytes, int] | None = None) -> Space:
    """The states that a crash may leave after `since` operations or later; each once for every promise that it may have
    to keep. Spaces that share `interned` have equal keys for equal trees."""
    wanted = list(TITLES) if models is None else models
    contract = promises(ops)
    found: dict[tuple, State] = {}
    trees: dict[tuple, Tree] = {}
    interned = {} if interned is None else interned
    bounded: set[int] = set()

    def add(model: str, moment: int, torn: int | None, entries: Entries, contents: dict[int, bytes], lost: tuple[str, ...], promise: Promise) -> None:
        tree = _tree(disk, entries, contents)
        tree_key = tuple((path, interned.setdefault(c, len(interned)) if isinstance(c, bytes) else c) for path, c in tree.items())
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
                add(model, moment, torn, entries, contents, (), contract[moment if torn is None else moment - 1])
        else:
            for moment, entries, contents, lost, whole in _power_loss(disk, ops, MODELS[model], since):
                add(model, moment, None, entries, contents, lost, contract[moment])
                if not whole:
                    bounded.add(moment)
    states = sorted(found.items(), key=lambda item: (item[1].moment, len(item[1].lost)))
    return Space([s for _, s in states], trees, [key for (key, _), _ in states], len(ops) + 1 - since, interned, len(bounded))


def thin(found: Space, most: int) -> int:
    """Keep at most so many trees, evenly drawn, and all that a killed process leaves, or any crash when a save has returned
    and the next one not begun: there a missing sync shows, perhaps in a single state. How many were left out."""
    if len(found.trees) <= most:
        return 0
    pairs = list(zip(found.states, found.keys))
    kept = {key for s, key in pairs if PROCESS in s.models}
    at_rest = dict.fromkeys(key for s, key in pairs if s.promise.durable and not s.promise.under_way)
    for keys in (at_rest, dict.fromkeys(found.keys)):
        others = [key for key in keys if key not in kept]
        room = max(0, most - len(kept))
        kept |= {others[n * len(others) // room] for n in range(min(room, len(others)))}
    return keep(found, kept)


def keep(found: Space, kept: set[tuple]) -> int:
    """Keep the trees with these keys; how many others there were."""
    left = len(found.trees.keys() - kept)
    pairs = [(s, key) for s, key in zip(found.states, found.keys) if key in kept]
    found.states, found.keys = [s for s, _ in pairs], [key for _, key in pairs]
    found.trees = {key: tree for key, tree in found.trees.items() if key in kept}
    return left


def final(disk: Disk, ops: list[Op]) -> Tree:
    """What lies there after all operations, if nothing is lost."""
    *_, (_, _, entries, contents) = _prefixes(disk, ops, len(ops))
    return _tree(disk, entries, contents)


def _tree(disk: Disk, entries: Entries, contents: dict[int, bytes]) -> Tree:
    return {
        path: None if inode in disk.directories else disk.links.get(inode, contents.get(inode, b""))
        for path, inode in paths(entries, disk).items()
    }


# --- the process dies -----------------------------------------------------------------------------------


def _prefixes(disk: Disk, ops: list[Op], since: int) -> Iterator[tuple[int, int | None, Entries, dict[int, bytes]]]:
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
    """Where a write is cut: one byte in, in the middle, one byte before its end, and where one call ended and the next began."""
    n = len(op.data)
    parts = op.parts[:-1]
    if len(parts) > TEARS:
        parts = [parts[round(i * (len(parts) - 1) / (TEARS - 1))] for i in range(TEARS)]
    return sorted({1, n // 2, n - 1, *parts} & set(range(1, n)))


# --- the power goes -------------------------------------------------------------------------------------


@dataclass
class _Content:
    """A file's bytes: what is surely there, and what has been written since."""

    durable: bytes = b""
    since: list[bytes] = field(default_factory=list)  # after each write that wasn't synced
    overwrote: bool = False  # one of them changed bytes that were durable
    failed: int = 0  # how many of `since` a failed fsync has given up: later syncs don't bring them back
    choices: list[tuple[bytes, str]] | None = None  # what may be there, worked out once

    @property
    def now(self) -> bytes:
        return self.since[-1] if self.since else self.durable

    def sync(self) -> None:
        if len(self.since) > self.failed:
            self.durable, self.since, self.overwrote, self.failed, self.choices = self.now, [], False, 0, None

    def change(self, op: Write | Truncate) -> None:
        begin = op.offset if isinstance(op, Write) else op.size
        self.overwrote |= begin < len(self.durable)
        self.since.append(written(self.now, op))
        self.choices = None


def _power_loss(disk: Disk, ops: list[Op], model: Model, since: int) -> Iterator[tuple[int, Entries, dict[int, bytes], tuple[str, ...], bool]]:
    durable: Entries = dict(disk.before)
    pending: list[Names] = []
    files = {inode: _Content(content) for inode, content in disk.contents.items()}
    touched: dict[int, int] = {}  # inode -> how many of `pending` there were when it was last changed

    def commit(upto: int) -> None:
        for op in pending[:upto]:
            apply(durable, op)
        del pending[:upto]
        for inode in touched:
            touched[inode] = max(0, touched[inode] - upto)

    if since == 0:
        yield 0, dict(durable), {i: f.durable for i, f in files.items()}, (), True
    for moment, op in enumerate(ops, 1):
        if isinstance(op, Names):
            current = _with(durable, pending)
            if model.flushed_by_rename:
                for inode in _replacing(op, current):
                    if inode in files:
                        files[inode].sync()
            pending.append(op)
            for directory, _, before, after in op.changes:
                for inode in (directory, before, after):
                    if inode is not None:
                        touched[inode] = len(pending)
            if model.names == "all":
                commit(len(pending))
        elif isinstance(op, (Write, Truncate)):
            files.setdefault(op.inode, _Content()).change(op)
        elif isinstance(op, SyncAll):
            for file in files.values():
                file.sync()
            commit(len(pending))
        elif isinstance(op, Sync):
            if not op.worked:
                if op.inode in files:
                    files[op.inode].failed = len(files[op.inode].since)
            else:
                if op.inode in files:
                    files[op.inode].sync()
                if model.names == "prefix":
                    commit(touched.get(op.inode, 0))
                elif op.inode in disk.directories:
                    _commit_directory(durable, pending, op.inode)
        if moment >= since:
            for entries, names_lost, names_whole in _names(durable, pending, model):
                reachable = dict.fromkeys(entries.values())
                choices = {i: _contents(files[i], model) for i in reachable if i in files and files[i].since}
                combos, whole = _combinations(choices)
                named = {inode: path for path, inode in paths(entries, disk).items()} if choices else {}
                for combo in combos:
                    contents = {i: files[i].now for i in reachable if i in files}
                    contents |= {i: content for i, (content, _) in zip(choices, combo)}
                    lost = names_lost + tuple(text.replace(FILE, named.get(i, "a file")) for i, (_, text) in zip(choices, combo) if text)
                    yield moment, entries, contents, lost, whole and names_whole


def _with(entries: Entries, ops: list[Names]) -> Entries:
    out = dict(entries)
    for op in ops:
        apply(out, op)
    return out


def _replacing(op: Names, current: Entries) -> list[int]:
    """Files that a rename has put in the place of others."""
    gone = {before for _, _, before, after in op.changes if after is None}
    return [after for d, name, before, after in op.changes if before is not None and after is not None and after in gone and current.get((d, name)) is not None]


def _commit_directory(durable: Entries, pending: list[Names], directory: int) -> None:
    """The entries of one directory; what a rename took away elsewhere goes with it."""
    for op in [op for op in pending if any(d == directory and (after is not None or before is not None) for d, _, before, after in op.changes)]:
        added = {d for d, _, _, after in op.changes if after is not None}
        if not added or directory in added:
            apply(durable, op)
            pending.remove(op)


def _names(durable: Entries, pending: list[Names], model: Model) -> Iterator[tuple[Entries, tuple[str, ...], bool]]:
    n = len(pending)
    if model.names == "prefix":
        kept = [tuple(range(k)) for k in range(n, -1, -1)]
        whole = True
    elif n <= SUBSETS:
        kept = [c for k in range(n, -1, -1) for c in combinations(range(n), k)]
        whole = True
    else:
        every = range(n)
        kept = [tuple(range(k)) for k in range(n, -1, -1)]
        kept += [tuple(i for i in every if i != left) for left in every] + [(i,) for i in every]
        kept, whole = list(dict.fromkeys(kept)), False
    for which in kept:
        lost = tuple(f"{pending[i].text}" for i in range(n) if i not in which)
        yield _with(durable, [pending[i] for i in which]), lost, whole


def _contents(file: _Content, model: Model) -> list[tuple[bytes, str]]:
    """What may be on the disk of a file that wasn't synced: all of it, the bytes from before, or a part."""
    if file.choices is None:
        different: dict[bytes, str] = {}
        for content, text in _candidates(file, model):
            different.setdefault(content, text)
        file.choices = list(different.items())
    return file.choices


def _common(a: bytes, b: bytes) -> int:
    """How many bytes they begin with in common."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


def _candidates(file: _Content, model: Model) -> Iterator[tuple[bytes, str]]:
    old, new = file.durable, file.now
    yield new, ""
    yield old, f"the bytes of {FILE}: {len(old)} of {len(new)} are there"
    same = _common(old, new)
    half = (same + len(new)) // 2
    if not file.overwrote or len(new) > len(old):
        yield new[:half], f"the second half of what was written to {FILE}"
    if file.overwrote:
        yield new[:half] + old[half:], f"the second half of what was written to {FILE}: the old bytes are there"
        yield old[:half].ljust(min(half, len(new)), b"\0") + new[half:], f"the first half of what was written to {FILE}"
    for between in (file.since[0], file.since[-2] if len(file.since) > 1 else file.since[0]):
        yield between, f"the later writes to {FILE}"
    if model.holes and len(new) > len(old):
        grown = max(same, min(len(old), len(new)))
        yield new[:grown].ljust(len(new), b"\0"), f"the bytes of {FILE}: it has its size, and zeros in it"
        yield new[:half].ljust(len(new), b"\0"), f"the second half of {FILE}: there are zeros"
        yield new[:grown] + bytes(max(0, half - grown)) + new[max(half, grown) :], f"the first half of what was written to {FILE}: there are zeros"


def _combinations(choices: dict[int, list[tuple[bytes, str]]]) -> tuple[list[tuple], bool]:
    number = 1
    for each in choices.values():
        number *= len(each)
    if number <= FULL:
        return list(product(*choices.values())), True
    # one file at a time: all others as they should be, or all others lost
    best = tuple(each[0] for each in choices.values())
    worst = tuple(each[1 if len(each) > 1 else 0] for each in choices.values())
    out = {best: None, worst: None}
    for n, each in enumerate(choices.values()):
        for choice in each:
            for rest in (best, worst):
                out[(*rest[:n], choice, *rest[n + 1 :])] = None
    return list(out), False
