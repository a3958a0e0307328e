"""Questions to a driver of the workload. It reports what happened; the check that asked judges
it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grader.checks.crashes import crashed
from grader.checks.endings import ended_early
from grader.harness.lab import Lab
from grader.harness.run import Run
from grader.verdicts import Finding, Found, Gist


@dataclass
class Answer:
    """The outcome of one question. All of it was reported beside student code."""

    question: dict
    values: dict = field(default_factory=dict)  # what the driver reported
    crash: dict | None = None  # the error that ended the process that was asked
    status: int | None = None  # its exit status, or -signal; None: it was never asked
    events: list[dict] = field(default_factory=list)  # those that name this question
    lab: Any = None  # the Lab and the Run that it was asked in
    run: Any = None

    def given(self, think: str, when: tuple[str, str] | None = None) -> dict:
        """The reported values. Raises the Finding of a process that crashed, died or hung.

        think  a question that helps the author of the code
        when   a row of evidence: what the function was asked
        """
        rows = [when] if when else []
        asked = self.question["ask"]
        if self.values and self.status == 0:
            return self.values
        if self.status is None and not self.run.finished:
            raise ended_early(self.lab, self.run, self.run.last, rows if self.events else [])
        if self.crash:
            finding = crashed(self.crash, rows)
            finding.think = think
        else:
            ended = Gist("ended", self._how())
            finding = Finding("answer", [*rows, ended], about=asked, think=think)
        finding.data |= window(self.events)
        raise finding

    def _how(self) -> str:
        if self.status is None:
            return "the process ended before it was asked"
        if self.status < 0:
            name = signal.Signals(-self.status).name
            return f"{name} killed the process that was asked"
        return f"the process that was asked ended with exit status {self.status}"

    def note(self, event: dict) -> None:
        """One event that names this question."""
        self.events.append(event)
        if event["event"] == "answer" and isinstance(event.get("values"), dict):
            self.values = self.values or event["values"]
        elif event["event"] == "crash" and self.crash is None:
            self.crash = event
        elif event["event"] == "ended" and self.status is None:
            self.status = event["status"]


def window(events: list[dict]) -> dict[str, tuple[float, float]]:
    """For Finding.data: when these events came, so that a message shows what was printed then."""
    times = [event["t"] for event in events if "t" in event]
    return {"window": (min(times), max(times))} if times else {}


def cwd_changed(called: str, rows: Sequence[tuple[str, str]] = ()) -> Finding:
    """`called` left another working directory than it had found."""
    found = Found(f"after {called}, the process is in another working directory")
    return Finding("cwd-changed", [*rows, found, ("expected", "it stays as it is")])


def ask(
    lab: Lab, script: str, questions: list[dict], *argv: object,
    directory: Path | None = None, fresh: bool = False, trusted: bool = False,
    alike: Callable[[dict], object] = lambda question: None,
) -> list[Answer]:  # fmt: skip
    """Have one life of `script` answer all questions, in this order.

    questions  JSON objects; "ask" names what the driver does
    directory  where the driver works; a new one without it
    fresh      in a plainly started interpreter: its hash secret and addresses are its own
    trusted    without the submission
    alike      equal for questions of which all hang if one does: after it, another life is asked
               only the others. Without it, no question is asked after one that hangs
    """
    numbered = [question | {"id": f"{lab.draw.getrandbits(64):016x}"} for question in questions]
    answers = {question["id"]: Answer(question, lab=lab) for question in numbered}
    while numbered:
        run = lab.launch(
            script,
            *argv,
            directory=directory,
            given={"questions": numbered},
            fresh=fresh,
            trusted=trusted,
        )
        directory = run.directory
        for question in numbered:
            answers[question["id"]].run = run
        for event in run.last.events:
            name = event.get("id" if event.get("event") == "answer" else "point")
            if isinstance(name, str) and name in answers:
                answers[name].note(event)
        numbered = _after_a_hang(
            run, [q for q in numbered if answers[q["id"]].status is None], alike
        )
    return list(answers.values())


def _after_a_hang(run: Run, left: list[dict], alike: Callable[[dict], object]) -> list[dict]:
    """Those of the questions without an answer that can still get one."""
    if run.last.process.ended != "quiet" or not left:
        return []
    return [question for question in left if alike(question) != alike(left[0])]
