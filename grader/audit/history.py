"""What the probe recorded of one life, as values that judge.py compares."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# of the events of a save, those that no log makes
OF_A_SAVE = ("torch.save", "save_file", "rename", "mkdir", "replace", "link")

# what a file event's name says besides the path (harness/inside/fsevents.py)
VERBS = re.compile(r"((torch\.save|save_file) (begins|ended)|\S+) ")
OUTSIDE = " from another directory"

NOTHING = "none"  # instead of a digest: no gradients, no buffers (boot/grade_audit_state.py)


@dataclass(frozen=True)
class Step:
    """An optimizer step: what it depended on, as component -> digest; nothing if it was only
    counted.
    """

    optimizer: int  # by its first step in this process: after a resume, another may be the first
    parts: dict[str, str]
    time: float = 0.0  # s, when it began; the clock of all processes
    shared: bool = False  # another optimizer trains some of the same weights

    @property
    def weights(self) -> str:
        return self.parts.get("weights", "")


@dataclass(frozen=True)
class FileEvent:
    """Just before a file event; `size` is that of the file of the event before."""

    step: int  # steps done
    number: int
    name: str
    size: int | None = None
    time: float = 0.0  # s
    background: bool = False  # another thread than the main one

    @property
    def writes(self) -> bool:
        """Does it begin to write a file?"""
        return self.name.startswith(("open ", "torch.save begins ", "save_file begins "))

    @property
    def ended(self) -> bool:
        """Nothing happens between the end of a file and the next event."""
        return self.name.startswith(("torch.save ended ", "save_file ended "))

    @property
    def path(self) -> str:
        """Of the file, below {out}."""
        return VERBS.sub("", self.name, count=1).removesuffix(OUTSIDE)


@dataclass(frozen=True)
class Save:
    """The file events between two steps."""

    step: int
    events: list[FileEvent]

    @property
    def files(self) -> frozenset[str]:
        """What it writes, by names that are equal for each save."""
        return frozenset(nameless(event.path) for event in self.events)

    @property
    def marked(self) -> bool:
        """Does something happen in it that no log does?"""
        return any(event.name.startswith(OF_A_SAVE) for event in self.events)


def nameless(name: str) -> str:
    """Equal for files whose names differ only in numbers, dates, or random identifiers."""
    return re.sub(r"[0-9a-f]*\d[0-9a-f]*", "N", name)


@dataclass(frozen=True)
class Saved:
    """A dictionary that torch.save was given: key -> digest of its value."""

    parts: dict[str, str]
    tensors: frozenset[str]  # keys whose values hold tensors
    step: int = 0  # steps done in this life


@dataclass(frozen=True)
class File:
    """A file below {out} after a life."""

    name: str
    size: int
    written: float  # s, by the clock of all processes


@dataclass
class Process:
    """One process of a life that imported torch."""

    rank: int = 0
    steps: list[Step] = field(default_factory=list)
    files: list[FileEvent] = field(default_factory=list)
    fault: dict[str, Any] | None = None
    grace_over: bool = False
    end: str | None = None  # the weights at its exit
    raised: bool = False  # it exits because of an exception that nothing caught
    trouble: str | None = None
    costs: list[float] = field(default_factory=list)  # s that the probe took in each step
    saved: list[Saved] = field(default_factory=list)
    kept_open: set[str] = field(default_factory=set)  # files between saves: logs, databases
    restart: int = 0  # how often a launcher such as torchrun had started its ranks again

    @property
    def cost(self) -> float:
        """s that the probe takes in a step: the mean without the tenth that took longest.

        Such as the first step, in which torch loads much, and pauses of a busy machine.
        """
        most = sorted(self.costs)[: max(1, len(self.costs) - math.ceil(len(self.costs) / 10))]
        return sum(most) / max(1, len(most))

    @property
    def asynchronous(self) -> bool:
        """Does it save while it trains on? Then a file event's step isn't that of the save."""
        return any(event.background for event in self.files)

    def saves(self) -> list[Save]:
        """Its saves, but for what it writes before the first step."""
        return [save for save in self._groups() if save.marked] or self._groups()

    def logs(self) -> set[str]:
        """Files that it writes without saving, or keeps open while it trains."""
        if self.asynchronous:
            return set()
        saves = self.saves()
        saved = {event.path for save in saves for event in save.events}
        others = [group for group in self._groups() if group not in saves]
        return self.kept_open - saved | {e.path for group in others for e in group.events}

    def _groups(self) -> list[Save]:
        groups: dict[int, list[FileEvent]] = {}
        for event in self.files:
            if event.step:
                groups.setdefault(event.step, []).append(event)
        return [Save(step, events) for step, events in sorted(groups.items())]


@dataclass
class Life:
    """One launch of the command, from its start to its end."""

    ranks: dict[int, Process] = field(default_factory=dict)
    status: int | None = None  # exit status, or -signal
    ended: str | None = None  # the limit that ended it
    seconds: float = 0.0
    tail: list[str] = field(default_factory=list)  # the last lines that it printed
    trouble: str | None = None
    began: float = 0.0  # s
    waited: float = 0.0  # s in which it could have run, and got no processor or disk
    left: list[File] = field(default_factory=list)
    # what a launcher started again by itself after this: torchrun --max-restarts
    later: list[Life] = field(default_factory=list)

    @property
    def first(self) -> Process:
        """The process that stands for the life: rank 0's."""
        return self.ranks.get(0) or next(iter(self.ranks.values()), Process())

    @property
    def fault(self) -> dict[str, Any] | None:
        return next((p.fault for p in self.ranks.values() if p.fault), None)

    @property
    def grace_over(self) -> bool:
        return any(p.grace_over for p in self.ranks.values())


def process(lines: Iterable[str]) -> Process:
    """What one process recorded; a line that was cut off is the last one, and is left out."""
    found, rank = Process(), None
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            break
        kind = record["kind"]
        if kind == "step":
            rank = record["rank"] if rank is None else rank
            found.steps.append(
                Step(*(record[key] for key in ("optimizer", "parts", "t", "shared")))
            )
            found.costs.append(record["took"])
        elif kind == "file":
            found.files.append(
                FileEvent(
                    *(record[key] for key in ("step", "number", "name", "size", "t", "background"))
                )
            )
        elif kind == "saved":
            found.saved.append(Saved(record["parts"], frozenset(record["tensors"]), record["step"]))
        elif kind == "open":
            found.kept_open |= set(record["files"])
        elif kind == "fault":
            found.fault = record
        elif kind == "grace over":
            found.grace_over = True
        elif kind == "end":
            found.end, found.raised = record["weights"], record["raised"]
        elif kind == "trouble":
            found.trouble = record["error"]
        found.rank = record["rank"] if rank is None else rank
        found.restart = record.get("restart", 0)
    return found


def read(folder: Path) -> list[dict[int, Process]]:
    """Rank -> its process, for each time that the ranks were started; at least one.

    Where several processes have the same rank, the one that trained most counts.
    """
    starts: dict[int, dict[int, Process]] = {}
    for file in sorted(folder.glob("*.jsonl")):
        with open(file, encoding="utf-8", errors="replace") as f:
            found = process(f)
        ranks = starts.setdefault(found.restart, {})
        known = ranks.get(found.rank)
        if known is None or _weight(found) > _weight(known):
            ranks[found.rank] = found
    each = [ranks for _, ranks in sorted(starts.items())]
    # a launcher is a process of its own, which trains nothing
    trained = [{r: p for r, p in ranks.items() if p.steps} for ranks in each]
    return [ranks for ranks in trained if ranks] or each[:1] or [{}]


def _weight(p: Process) -> tuple[int, int, bool]:
    return len(p.steps), len(p.files), p.fault is not None
