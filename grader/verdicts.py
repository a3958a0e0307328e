"""Verdicts, and the findings that lead to them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

PASS, FAIL, BLOCKED, INCONCLUSIVE = "pass", "fail", "blocked", "inconclusive"
# causes that a task's other checks would only meet as well, after waiting for them
HANGS = ("limit:", "deadlock:")


class Finding(AssertionError):
    """What a check found wrong, as evidence: rows of (label, text), the first ones first.

    `cause` says when two findings are one: "component:NumPy RNG",
    "crash:checkpoint.py:41:TypeError". `fault` is the text form of the fault schedule that shows
    it, for the replay command.
    """

    verdict = FAIL
    blocks = True  # the tasks that build on this one wait for it

    def __init__(
        self, cause: str, rows: list[tuple[str, str]], fault: str | None = None, **data: Any
    ):
        super().__init__(cause)
        self.cause, self.rows, self.fault, self.data = cause, rows, fault, data

    def __str__(self) -> str:
        return "\n" + "\n".join(f"  {label:<10} {text}" for label, text in self.rows)


class Inconclusive(Finding):
    """Nothing was proved: the fault never fired, or the machine failed. Never the student's fault.

    It doesn't block what builds on this task where the machine can never show it.
    """

    verdict = INCONCLUSIVE

    def __init__(
        self,
        cause: str,
        rows: list[tuple[str, str]],
        fault: str | None = None,
        blocks: bool = True,
        **data: Any,
    ):
        super().__init__(cause, rows, fault, **data)
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


def sentence(name: str) -> str:
    """test_a_killed_run_rejoins -> 'a killed run rejoins'."""
    return re.sub(r"\bgpu(s?)\b", r"GPU\1", name.removeprefix("test_").replace("_", " "))
