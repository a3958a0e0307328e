"""What a power failure may leave of the disk, file system by file system.

What no sync has made durable may be there, in part, or not. How much may be missing, and in which
order, depends on the file system:

    ext4        metadata in the order of the calls (one journal); bytes that were never synced may
                be missing, and the file's size with them; a rename over an existing file sends the
                source's bytes ahead (auto_da_alloc). fsync of anything commits the journal up to
                its last change.
    ext4-wb     data=writeback: as ext4, and a file may have its new size and zeros in it.
    xfs         metadata in order; files may have holes of zeros; nothing is sent ahead of a rename.
    nfs         names are the server's, durable at once; of bytes that weren't synced, any may be
                missing.
    posix       what the standard promises and no more: names that weren't synced (fsync of their
                directory) come and go in any order.

Sources: Documentation/filesystems/ext4 (admin-guide), fs/ext4/namei.c (ext4_rename, auto_da_alloc),
fs/xfs (i_size is written when the data is), RFC 8881 (stable storage), POSIX.1-2017 fsync and
rename; Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014), whose ALICE enumerates
like this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, product

from grader.crash.operations import (
    Disk,
    Entries,
    Names,
    Op,
    Sync,
    SyncAll,
    Tree,
    Truncate,
    Write,
    apply,
    written,
)

# combinations of files' contents at one moment and with the same names, up to which all are tried
FULL = 64
SUBSETS = 6  # unsynced changes of names, up to which every subset is tried
FILE = "\0"  # stands for a file's name, which is another one in every state


@dataclass(frozen=True)
class Model:
    """What a file system may lose when the power fails."""

    name: str
    title: str
    # of changes that weren't synced, which may be there: a "prefix", any "subset", or "all" are
    names: str
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


@dataclass
class Situation:
    """One choice of the names that are there after a power loss, and of each file what its bytes
    may be.
    """

    moment: int  # how many operations had been done
    entries: Entries
    lost: tuple[str, ...]  # names that aren't there, as text
    whole: bool  # every choice of the names is tried at this moment
    now: dict[int, bytes]  # file's inode -> all of its bytes
    # of a file that wasn't synced: (bytes, what is missing), all of them first
    choices: dict[int, list[tuple[bytes, str]]]

    def combinations(self, few: bool = False) -> tuple[list[tuple[tuple[bytes, str], ...]], bool]:
        """A choice for each of the unsynced files, in all ways (then the second value is True) or,
        if there are too many, for one file at a time; `few`: all as it should be, and all lost.
        """
        number = 1
        for each in self.choices.values():
            number *= len(each)
        if number <= FULL and not few:
            return list(product(*self.choices.values())), True
        # one file at a time: all others as they should be, or all others lost
        best = tuple(each[0] for each in self.choices.values())
        worst = tuple(each[1 if len(each) > 1 else 0] for each in self.choices.values())
        out = {best: None, worst: None}
        for n, each in enumerate(self.choices.values() if not few else ()):
            for choice in each:
                for rest in (best, worst):
                    out[(*rest[:n], choice, *rest[n + 1 :])] = None
        return list(out), number <= len(out)

    def allows(self, tree: Tree, inodes: dict[str, int]) -> bool:
        """May the disk be this `tree`, whose names are these? `inodes`: the entries' paths."""
        for path, content in tree.items():
            if isinstance(content, bytes):
                inode = inodes[path]
                if self.now.get(inode, b"") != content and not any(
                    content == bytes_ for bytes_, _ in self.choices.get(inode, ())
                ):
                    return False
        return True


@dataclass
class _Content:
    """A file's bytes: what is surely there, and what has been written since."""

    durable: bytes = b""
    since: list[bytes] = field(default_factory=list)  # after each write that wasn't synced
    overwrote: bool = False  # one of them changed bytes that were durable
    cut: bool = False  # one of them made the file shorter than it durably was
    # how many of `since` a failed fsync has given up: later syncs don't bring them back
    failed: int = 0
    choices: list[tuple[bytes, str]] | None = None  # what may be there, worked out once

    @property
    def now(self) -> bytes:
        return self.since[-1] if self.since else self.durable

    def sync(self) -> None:
        if len(self.since) > self.failed:
            self.durable, self.since, self.overwrote, self.cut, self.failed, self.choices = (
                self.now,
                [],
                False,
                False,
                0,
                None,
            )

    def change(self, op: Write | Truncate) -> None:
        begin = op.offset if isinstance(op, Write) else op.size
        self.overwrote |= begin < len(self.durable)
        self.cut |= isinstance(op, Truncate) and op.size < len(self.durable)
        self.since.append(written(self.now, op))
        self.choices = None


def situations(disk: Disk, ops: list[Op], model: Model, since: int = 0) -> Iterator[Situation]:
    """What the power may leave after `since` operations or later."""
    durable: Entries = dict(disk.before)
    pending: list[Names] = []
    files = {inode: _Content(content) for inode, content in disk.contents.items()}
    # inode -> how many of `pending` there were when it was last changed
    touched: dict[int, int] = {}

    def commit(upto: int) -> None:
        for op in pending[:upto]:
            apply(durable, op)
        del pending[:upto]
        for inode in touched:
            touched[inode] = max(0, touched[inode] - upto)

    if since == 0:
        yield Situation(0, dict(durable), (), True, {i: f.durable for i, f in files.items()}, {})
    for moment, op in enumerate(ops, 1):
        if isinstance(op, Names):
            current = _with(durable, pending)
            if model.flushed_by_rename:
                for inode in _replacing(op, current):
                    if inode in files:
                        files[inode].sync()
            pending.append(op)
            for directory, _, before, after in op.changes:
                for moved in (directory, before, after):
                    if moved is not None:
                        touched[moved] = len(pending)
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
            for entries, lost, whole in _names(durable, pending, model):
                there = [i for i in dict.fromkeys(entries.values()) if i in files]
                choices = {i: _contents(files[i], model) for i in there if files[i].since}
                yield Situation(
                    moment, entries, lost, whole, {i: files[i].now for i in there}, choices
                )


def _with(entries: Entries, ops: list[Names]) -> Entries:
    out = dict(entries)
    for op in ops:
        apply(out, op)
    return out


def _replacing(op: Names, current: Entries) -> list[int]:
    """Files that a rename has put in the place of others."""
    gone = {before for _, _, before, after in op.changes if after is None}
    return [
        after
        for d, name, before, after in op.changes
        if before is not None
        and after is not None
        and after in gone
        and current.get((d, name)) is not None
    ]


def _commit_directory(durable: Entries, pending: list[Names], directory: int) -> None:
    """The entries of one directory; what a rename took away elsewhere goes with it."""
    for op in [
        op
        for op in pending
        if any(
            d == directory and (after is not None or before is not None)
            for d, _, before, after in op.changes
        )
    ]:
        added = {d for d, _, _, after in op.changes if after is not None}
        if not added or directory in added:
            apply(durable, op)
            pending.remove(op)


def _names(
    durable: Entries, pending: list[Names], model: Model
) -> Iterator[tuple[Entries, tuple[str, ...], bool]]:
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
    """What may be on the disk of a file that wasn't synced: all of it, the bytes from before, or a
    part.
    """
    if file.choices is None:
        different: dict[bytes, str] = {}
        for content, text in _candidates(file, model):
            different.setdefault(content, text)
        file.choices = list(different.items())
    return file.choices


def _common(a: bytes, b: bytes) -> int:
    """The length of their common prefix, in bytes."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


def _candidates(file: _Content, model: Model) -> Iterator[tuple[bytes, str]]:
    old, new = file.durable, file.now
    yield new, ""
    yield old, f"the bytes of {FILE}: {len(old)} of {len(new)} are there"
    for between in (file.since[0], file.since[-2] if len(file.since) > 1 else file.since[0]):
        yield between, f"the later writes to {FILE}"
    same = _common(old, new)
    if file.overwrote and len(new) > len(old) and not file.cut:
        yield from _overwritten_and_grown(old, new, same, model)
        return
    half = (same + len(new)) // 2
    if not file.overwrote or len(new) > len(old):
        yield new[:half], f"the second half of what was written to {FILE}"
    if file.overwrote:
        yield (
            new[:half] + old[half:],
            f"the second half of what was written to {FILE}: the old bytes are there",
        )
        yield (
            old[:half].ljust(min(half, len(new)), b"\0") + new[half:],
            f"the first half of what was written to {FILE}",
        )
    if model.holes and len(new) > len(old):
        grown = max(same, min(len(old), len(new)))
        yield (
            new[:grown].ljust(len(new), b"\0"),
            f"the bytes of {FILE}: it has its size, and zeros in it",
        )
        yield new[:half].ljust(len(new), b"\0"), f"the second half of {FILE}: there are zeros"
        yield (
            new[:grown] + bytes(max(0, half - grown)) + new[max(half, grown) :],
            f"the first half of what was written to {FILE}: there are zeros",
        )


def _overwritten_and_grown(
    old: bytes, new: bytes, same: int, model: Model
) -> Iterator[tuple[bytes, str]]:
    """Nothing made the file shorter: it has at least its old size, and of the old places the old
    bytes or the new.
    """
    size, half, middle = len(old), (same + len(old)) // 2, (len(old) + len(new)) // 2
    yield new[:size], f"what was appended to {FILE}"
    yield new[:middle], f"the second half of what was appended to {FILE}"
    yield old + new[size:], f"what was written over old bytes of {FILE}"
    yield (
        new[:half] + old[half:] + new[size:],
        f"the second half of what was written over old bytes of {FILE}",
    )
    yield old[:half] + new[half:], f"the first half of what was written over old bytes of {FILE}"
    if model.holes:
        yield new[:size].ljust(len(new), b"\0"), f"what was appended to {FILE}: there are zeros"
        yield (
            new[:middle].ljust(len(new), b"\0"),
            f"the second half of what was appended to {FILE}: there are zeros",
        )
        yield (
            new[:size] + bytes(middle - size) + new[middle:],
            f"the first half of what was appended to {FILE}: there are zeros",
        )
