"""What each rank reported at a point of a plan, and what that means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grader.checks.questions import window
from grader.checks.stacks import rows_of
from grader.harness.run import Process
from grader.verdicts import Finding

LEAVES = ("SystemExit", "KeyboardInterrupt", "GeneratorExit")  # no errors that a caller catches


@dataclass
class Seen:
    """One point, after it ran: what each rank reported there."""

    point: dict
    lives: list[Process]
    events: list[list[dict]]  # by rank
    table: list[dict]  # by rank: digests, as a tuple -> what they are, as text
    instead: Finding | None = None  # a hang at an earlier point, after which this one wasn't run

    @property
    def ranks(self) -> range:
        return range(len(self.events))

    def all(self, rank: int, event: str) -> list[dict]:
        if self.instead:
            raise self.instead
        return [e for e in self.events[rank] if e["event"] == event]

    def first(self, rank: int, event: str) -> Any:
        return next(iter(self.all(rank, event)), None)

    def loaded(self, rank: int, n: int = 0) -> Any:
        """The outcome of the rank's n-th load."""
        return next(iter(self.all(rank, "loaded point")[n : n + 1]), None)

    def saved(self, rank: int, n: int = 0) -> dict | None:
        return next(iter(self.all(rank, "saved point")[n : n + 1]), None)

    def found(self, n: int = 0) -> list[str]:
        """What each rank found: 'step 4', 'nothing', 'an error', 'another state', 'no answer'."""
        return [self._found(rank, n) for rank in self.ranks]

    def _found(self, rank: int, n: int) -> str:
        answer = self.loaded(rank, n)
        if answer is None:
            return "no answer"
        if raised := answer["raised"]:
            return f"{raised['type']}, which ends the process" if left(raised) else "an error"
        if answer["returned"] not in ("True", "False"):
            return f"an answer that is neither True nor False: {answer['returned'][:40]}"
        if answer["returned"] == "False":
            return "nothing"
        return self.table[rank].get(key_of(answer["holds"]), "another state")

    def different(self, rank: int, n: int) -> list[str]:
        """The components that differ from the step at which the rank believes it is."""
        answer = self.loaded(rank, n)
        for holds, what in self.table[rank].items():
            if what == f"step {answer['step']}":
                want = dict(holds)
                return [k for k in want if answer["holds"].get(k) != want[k]]
        return ["global step"]

    def loaded_as(self, rank: int, what: str) -> list[str]:
        """The components in which the rank's first load isn't that; all of them, if it failed."""
        want = next(dict(holds) for holds, text in self.table[rank].items() if text == what)
        answer = self.loaded(rank)
        got = {} if answer is None or answer["raised"] else answer["holds"]
        return [k for k in want if got.get(k) != want[k]]

    @property
    def window(self) -> dict[str, Any]:
        """For Finding.data: when the ranks were at this point."""
        return window([event for events in self.events for event in events])

    def hangs(self) -> bool:
        return any(self.all(rank, "collective failed") for rank in self.ranks)

    def ended_by_the_grader(self) -> dict[int, list[tuple[str, str]]]:
        """Rank -> where it stood, of those that went on alone after another one had ended."""
        ended = {rank: self.first(rank, "ended point") for rank in self.ranks}
        return {
            rank: rows_of(event["stack"], self.lives[rank].code)
            for rank, event in ended.items()
            if event and event["stack"] is not None
        }

    def until(self, event: str, n: int) -> list[Process]:
        """The ranks' lives as far as the n-th such event of this point, or to the point's end."""
        lives = []
        for life, events in zip(self.lives, self.events, strict=True):
            at = [i for i, e in enumerate(events) if e["event"] == event]
            lives.append(life.with_events(events[: at[n]] if n < len(at) else events))
        return lives


def left(raised: dict) -> bool:
    """It isn't an error that the caller could catch."""
    return any(name in raised["bases"] for name in LEAVES)


def key_of(holds: dict) -> tuple:
    return tuple(sorted(holds.items()))
