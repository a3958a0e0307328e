"""What was seen at each point of a plan: by the life that saved, and by the one that read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from grader.checks.directory_damage import Harm
from grader.checks.foreign_files import Stranger

CALLS = (
    "write",
    "best",
    "prune",
    "due",
    "put",
    "read",
    "read best",
    "spoil",
)  # operations of the saving life; the others are done here
MADE = "the directory"  # among what reading touched: it wasn't there before


@dataclass
class Look:
    """What a relaunched job found in a directory, or in a copy of it that was damaged."""

    id: str
    path: Path
    reads: list[str]
    labels: dict[str, str] = field(default_factory=dict)  # digest -> what it is, as text
    parts: bool = False  # digests of each part of the state are wanted
    harm: list[Harm] = field(default_factory=list)
    in_place: bool = False  # the harm is done to the directory itself, and undone
    refused: list[str] = field(default_factory=list)  # files that can't be opened; ".": no listing
    events: list[dict] = field(default_factory=list)
    touched: list[str] = field(default_factory=list)  # what reading changed, or made
    gone: set[str] = field(default_factory=set)

    def all(self, event: str) -> list[dict]:
        return [e for e in self.events if e["event"] == event]

    def read(self, what: str = "latest") -> dict | None:
        return next((read for read in self.all("read") if read["what"] == what), None)

    def found(self, what: str = "latest") -> str:
        """'step 20', 'none', 'error', 'another state' or 'nothing' (the reader itself died)."""
        read = self.read(what)
        if read is None:
            return "nothing"
        return (
            self.labels.get(read["digest"], "another state")
            if read["outcome"] == "state"
            else read["outcome"]
        )

    @property
    def read_crash(self) -> dict | None:
        failed = [read["error"] for read in self.all("read") if read["outcome"] == "error"]
        return next(iter([*failed, *self.all("crash")]), None)


@dataclass
class Seen:
    """One point of a plan, after it ran: what was done there, and what was found afterwards."""

    point: dict
    events: list[dict] = field(default_factory=list)  # of the saving life
    looks: list[Look] = field(default_factory=list)  # the first one at the directory as it was left
    total: int = 0  # bytes that the directory held at the end
    entries: int = 0  # files and folders in it
    lost: list[str] = field(default_factory=list)  # files of others that changed
    labels: dict[tuple[int, ...], object] = field(
        default_factory=dict
    )  # file -> the call that wrote it last
    strangers: dict[str, Stranger] = field(default_factory=dict)  # what others put there
    parts: dict[int, dict[str, str]] = field(
        default_factory=dict
    )  # of a state: the digest of each part

    def all(self, event: str) -> list[dict]:
        return [e for e in self.events if e["event"] == event]

    def found(self, what: str = "latest") -> str:
        return self.looks[0].found(what)

    @property
    def raised(self) -> dict | None:
        """What the operations raised in the student's code."""
        return next(iter(self.all("crash")), None)

    @property
    def read_crash(self) -> dict | None:
        return self.looks[0].read_crash

    @property
    def operations(self) -> list[Operation]:
        """What was seen at each of the point's calls."""
        at = [n for n, e in enumerate(self.events) if e["event"] == "op"]
        parts = [self.events[a:b] for a, b in zip(at, [*at[1:], None], strict=False)]
        return [Operation(op, events) for op, events in zip(self.calls, parts, strict=False)]

    @property
    def calls(self) -> list[dict]:
        return [op for op in self.point["ops"] if op["op"] in CALLS]

    @property
    def harmed(self) -> list[Look]:
        """What was found after each damage."""
        return [look for look in self.looks[1:] if not look.refused]

    @property
    def refused(self) -> list[Look]:
        """What was found where the disk refused something."""
        return [look for look in self.looks if look.refused]


@dataclass
class Operation:
    """One call, and what was reported of it."""

    op: dict
    events: list[dict]

    def all(self, event: str) -> list[dict]:
        return [e for e in self.events if e["event"] == event]

    @property
    def raised(self) -> dict | None:
        return next(iter(self.all("crash")), None)

    @property
    def wrote(self) -> dict[str, list[int]]:
        """Files that are new or changed."""
        return self.all("wrote")[0]["files"] if self.all("wrote") else {}

    @property
    def sizes(self) -> list[int]:
        return [size for _, _, size, _ in self.wrote.values()]
