"""Verdicts, and the findings that lead to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PASS, FAIL, BLOCKED, INCONCLUSIVE = "pass", "fail", "blocked", "inconclusive"
# causes that a task's other checks would only meet as well, after waiting for them
HANGS = ("limit", "deadlock")


class Finding(AssertionError):
    """What a check found wrong.

    code      what it is, the same for ever: "state-lost"; `grade explain` knows it
    rows      the evidence, as (label, text), in the order in which it is read
    fault     the fault schedule that shows it, as text, for the replay command
    about     what it is about, where one code stands for several: "NumPy RNG"
    means     what it costs in production; without it, what messages.toml says of the code
    think     a question that leads on; without it, as above
    error     of a crash: the exception, in one line
    data      more, for results as JSON
    """

    verdict = FAIL
    blocks = True  # the tasks that build on this one wait for it

    def __init__(
        self,
        code: str,
        rows: list[tuple[str, str]],
        fault: str | None = None,
        *,
        about: str = "",
        means: str = "",
        think: str = "",
        error: str = "",
        **data: Any,
    ):
        super().__init__(code)
        self.code, self.about = code, about
        self.rows, self.fault = rows, fault
        self.means, self.think, self.error = means, think, error
        self.data = data

    @property
    def cause(self) -> str:
        """Two findings with one cause are told once."""
        return f"{self.code}:{self.about}" if self.about else self.code

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
        rows: list[tuple[str, str]],
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
    """What one check (of one task) came to."""

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
    history: list[dict[str, Any]] = field(default_factory=list)  # for a page (report/history.py)


@dataclass
class ExerciseResult:
    id: str
    title: str
    tasks: list[TaskResult]
    seconds: float
    lives: int  # processes that ran
    seed: int
    sandbox: str = ""  # its kind (harness/sandbox.py)
    problem: str = ""  # why nothing could be run, if so

    @property
    def score(self) -> int:
        return sum(t.score for t in self.tasks)

    @property
    def max_score(self) -> int:
        return sum(t.max_score for t in self.tasks)
