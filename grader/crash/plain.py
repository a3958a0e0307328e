"""Records as plain data: one life records, another process works out the disk states. Reading a
record runs no code from it."""

from __future__ import annotations

import base64
from dataclasses import fields
from typing import Any

from grader.crash import operations
from grader.crash.operations import Disk, Op
from grader.crash.recorder import Record
from grader.crash.tracer import Ended

KINDS = {
    kind.__name__: kind
    for kind in (
        operations.Names,
        operations.Write,
        operations.Truncate,
        operations.Sync,
        operations.SyncAll,
        operations.Mark,
        operations.Note,
    )
}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def from_record(record: Record) -> dict[str, Any]:
    """JSON of a record."""
    it = record.disk
    ops = []
    for op in record.ops:
        values = {f.name: getattr(op, f.name) for f in fields(op)}
        if isinstance(op, operations.Write):
            values["data"] = _text(bytes(op.data))
        ops.append([type(op).__name__, values])
    return {
        "ops": ops,
        "ended": [[ended.status, ended.late] for ended in record.ended],
        "directories": sorted(it.directories),
        "links": list(it.links.items()),
        "before": [[*at, inode] for at, inode in it.before.items()],
        "contents": [[inode, _text(content)] for inode, content in it.contents.items()],
        "names": list(it.names.items()),
    }


def to_record(data: dict[str, Any]) -> Record:
    """The record that from_record wrote. ValueError, TypeError or KeyError if it didn't."""
    ops: list[Op] = []
    for kind, values in data["ops"]:
        op = KINDS[kind](**values)
        if isinstance(op, operations.Write):
            op.data = base64.b64decode(op.data)
        if isinstance(op, operations.Names):
            op.changes = [(at, name, old, new) for at, name, old, new in op.changes]
        ops.append(op)
    found = Disk(
        set(data["directories"]),
        dict(data["links"]),
        {(directory, name): inode for directory, name, inode in data["before"]},
        {inode: base64.b64decode(content) for inode, content in data["contents"]},
        dict(data["names"]),
    )
    return Record(found, ops, [Ended(status, late) for status, late in data["ended"]])


def from_trees(trees: list[operations.Tree]) -> dict[str, Any]:
    """JSON of the contents of directories; shared contents appear once."""
    numbers: dict[bytes, int] = {}
    of = [
        [
            [path, numbers.setdefault(it, len(numbers)) if isinstance(it, bytes) else it]
            for path, it in tree.items()
        ]
        for tree in trees
    ]
    return {"contents": [_text(content) for content in numbers], "trees": of}


def to_trees(data: dict[str, Any]) -> list[operations.Tree]:
    contents = [base64.b64decode(text) for text in data["contents"]]
    return [
        {path: contents[it] if isinstance(it, int) else it for path, it in tree}
        for tree in data["trees"]
    ]
