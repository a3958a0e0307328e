"""What happened to a directory: a list of operations, and a disk that they can be played on.

Directories map names to inodes, as in the kernel: a file that is renamed is the same file, and
fsync makes an inode durable, whatever its names.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ROOT = 0  # the inode of the directory that is recorded
Entries = dict[tuple[int, str], int]  # (directory's inode, name) -> inode


@dataclass
class Op:
    """Something that changed the disk, or that its state is measured by. `text` is the call as
    people write it.
    """

    text: str = ""
    who: str = ""  # which process, where there are several


@dataclass
class Names(Op):
    """Directory entries changed, all of them at once."""

    # directory, name, before, after
    changes: list[tuple[int, str, int | None, int | None]] = field(default_factory=list)


@dataclass
class Write(Op):
    """Bytes of a file, at an offset. Calls that continue one another are one operation; `parts`
    says where they ended.
    """

    inode: int = -1
    offset: int = 0
    data: bytes = b""
    parts: list[int] = field(default_factory=list)  # lengths of `data` after each call


@dataclass
class Truncate(Op):
    inode: int = -1
    size: int = 0


@dataclass
class Sync(Op):
    """fsync or fdatasync of a file or directory returned. One that failed promises nothing."""

    inode: int = -1
    worked: bool = True


@dataclass
class SyncAll(Op):
    """sync(2) or syncfs(2) returned."""


@dataclass
class Mark(Op):
    """What the program says of itself: a save "began", "returned" or "raised"."""

    kind: str = ""
    save: int = 0
    digest: str = ""


@dataclass
class Note(Op):
    """A call that failed and changed nothing."""


@dataclass
class Disk:
    """What a directory held before the first operation, and what each inode is. Modes and owners
    aren't modeled.
    """

    directories: set[int] = field(default_factory=lambda: {ROOT})
    links: dict[int, str] = field(default_factory=dict)  # symbolic links: where to
    before: Entries = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)  # of files, before
    # what a file is called in a story: its first path
    names: dict[int, str] = field(default_factory=dict)


def written(content: bytes, op: Write | Truncate, length: int | None = None) -> bytes:
    """A file's content after the operation, or after the first `length` bytes of it."""
    if isinstance(op, Truncate):
        return content[: op.size].ljust(op.size, b"\0")
    data = op.data if length is None else op.data[:length]
    if not data:
        return content
    return content[: op.offset].ljust(op.offset, b"\0") + data + content[op.offset + len(data) :]


def apply(entries: Entries, op: Names) -> None:
    for directory, name, _, after in op.changes:
        if after is None:
            entries.pop((directory, name), None)
        else:
            entries[directory, name] = after


def paths(entries: Entries, disk: Disk) -> dict[str, int]:
    """Every path below the directory, in order, with the inode that it leads to."""
    below: dict[int, list[tuple[str, int]]] = {}
    for (directory, name), inode in entries.items():
        below.setdefault(directory, []).append((name, inode))
    found: dict[str, int] = {}

    def walk(directory: int, prefix: str, above: frozenset[int]) -> None:
        for name, inode in sorted(below.get(directory, [])):
            found[prefix + name] = inode
            if inode in disk.directories and inode not in above:
                walk(inode, f"{prefix}{name}/", above | {inode})

    walk(ROOT, "", frozenset([ROOT]))
    return found


# path -> None for a directory, bytes for a file, text for a symbolic link
Tree = dict[str, "bytes | str | None"]
