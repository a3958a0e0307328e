"""Verdicts, and the findings that lead to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

PASS, FAIL, BLOCKED, INCONCLUSIVE = "pass", "fail", "blocked", "inconclusive"
# causes that a task's other checks would only meet as well, after waiting for them
HANGS = ("limit", "deadlock")


class Row(NamedTuple):
    """A row of evidence. Most are plain pairs; rows with more structure have a type."""

    label: str
    text: str


class Gist(Row):
    """It says the finding in one line."""

    __slots__ = ()


class Found(Gist):
    """It does so together with the fault that struck."""

    __slots__ = ()

    def __new__(cls, text: str) -> Found:
        return cls._make(("found", text))


class Struck(Row):
    """The faults that were injected, and what came of them."""

    __slots__ = ()

    def __new__(cls, text: str) -> Struck:
        return cls._make(("fault", text))


class Damaged(Row):
    """The files that the check has damaged, and how."""

    __slots__ = ()

    def __new__(cls, text: str) -> Damaged:
        return cls._make(("damaged", text))


def _last(kind: type[Row], rows: Iterable[tuple[str, str]]) -> Row | None:
    return next((row for row in reversed(list(rows)) if isinstance(row, kind)), None)


class Finding(AssertionError):
    """What a check found wrong.

    code      what it is; it never changes: "state-lost"; `grade explain` knows it
    rows      the evidence, as (label, text), in the order in which it is read
    fault     the fault schedule that shows it, as text, for the replay command
    about     what it is about, where one code stands for several: "NumPy RNG"
    means     what it costs in production; without it, what messages.toml says of the code
    think     a question that leads on; without it, as above
    ending    of a life that ended early: how, in one line (of a crash: the exception)
    gist      the finding in one line, for where another one is told in full; without it, what its
              rows mark as that
    data      more, for results as JSON
    """

    verdict = FAIL
    blocks = True  # the tasks that build on this one wait for it

    def __init__(
        self,
        code: str,
        rows: Sequence[tuple[str, str]],
        fault: str | None = None,
        *,
        about: str = "",
        means: str = "",
        think: str = "",
        ending: str = "",
        gist: str = "",
        **data: Any,
    ):
        super().__init__(code)
        self.code, self.about = code, about
        self.rows: list[tuple[str, str]] = list(rows)
        self.fault = fault
        self.means, self.think = means, think
        self.ending, self._gist = ending, gist
        self.data = data

    @property
    def cause(self) -> str:
        """Two findings with the same cause are reported once."""
        return f"{self.code}:{self.about}" if self.about else self.code

    @property
    def has_gist(self) -> bool:
        """Does a row say what was found?"""
        return bool(self._gist) or _last(Gist, self.rows) is not None

    @property
    def gist(self) -> str:
        """The last row that is a Gist, after what had struck; without one, the first row."""
        if self._gist or not self.rows:
            return self._gist
        gist = _last(Gist, self.rows)
        if gist is None:
            return self.rows[0][1]
        if damaged := _last(Damaged, self.rows):
            return f"damaged {damaged.text}: {gist.text}"
        if isinstance(gist, Found) and (struck := _last(Struck, self.rows)):
            return f"{struck.text}: {gist.text}"
        return gist.text

    @gist.setter
    def gist(self, text: str) -> None:
        self._gist = text

    @property
    def core(self) -> str:
        """The same without what had struck, in which findings of one kind differ."""
        row = _last(Gist, self.rows)
        return self._gist or (row.text if row else self.gist)

    def reword(self, change: Callable[[str], str]) -> None:
        """Change the text of each row."""
        rows = [row if isinstance(row, Row) else Row(*row) for row in self.rows]
        self.rows = [row._replace(text=change(row.text)) for row in rows]

    @property
    def advice(self) -> list[tuple[str, str]]:
        """What follows the evidence."""
        return [(k, v) for k, v in (("means", self.means), ("think", self.think)) if v]

    def __str__(self) -> str:
        rows = [*self.rows, *self.advice]
        return "\n" + "\n".join(f"  {label:<10} {text}" for label, text in rows)


class Inconclusive(Finding):
    """Nothing was proved: the fault never fired, or the machine failed. Never the student's fault.

    It doesn't block what builds on this task where the machine can never show it.
    """

    verdict = INCONCLUSIVE

    def __init__(
        self,
        code: str,
        rows: Sequence[tuple[str, str]],
        fault: str | None = None,
        *,
        blocks: bool = True,
        **more: Any,
    ):
        super().__init__(code, rows, fault, **more)
        self.blocks = blocks


class NotSelected(Exception):
    """The check has no case for the fault that was asked for."""


@dataclass
class Outcome:
    """The outcome of one check (of one task)."""

    check: str  # its function's name
    title: str  # the same as a sentence
    task: str  # "ex01.4"
    verdict: str
    began: float  # on the monotonic clock
    ended: float
    finding: Finding | None = None
    figures: dict[str, str] = field(default_factory=dict)  # what was measured
    runs: list[Any] = field(default_factory=list)  # that it launched, with the submission's code

    @property
    def blocks(self) -> bool:
        """The tasks that build on this one have nothing to build on."""
        return self.finding is not None and self.finding.blocks


@dataclass
class TaskResult:
    id: str
    title: str
    verdict: str
    score: int
    max_score: int
    seconds: float  # from its first check's begin to its last one's end; tasks run at the same time
    message: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)  # for a page (report/history)


@dataclass(frozen=True)
class Attempt:
    """Something that a submission reached for and no task needs (harness/inside/attempts.py).

    The submission's own process reported it, so it may be anything.
    """

    check: str
    kind: str  # "network", "read", "write", "signal", "reports", "interpreter"
    what: str
    where: str  # the line of the submission: "checkpointing.py:12"

    @classmethod
    def of(cls, check: str, event: dict[str, Any]) -> Attempt:
        kind, what, where = (str(event.get(name))[:300] for name in ("kind", "what", "where"))
        return cls(check, kind, what, where)


@dataclass
class ExerciseResult:
    id: str
    title: str
    tasks: list[TaskResult]
    seconds: float
    lives: int  # processes that ran
    seed: int
    sandbox: str = ""  # its kind (harness/sandbox.py)
    # kind of cluster -> how many of its runs had one of this kind (checks/ex04/cluster_runs.py)
    clusters: dict[str, int] = field(default_factory=dict)
    problem: str = ""  # why nothing could be run, if so
    # what the submission reached for and no task needs, for an instructor
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def score(self) -> int:
        return sum(t.score for t in self.tasks)

    @property
    def max_score(self) -> int:
        return sum(t.max_score for t in self.tasks)
