"""Questions to a driver of the workload. It reports what happened; the check that asked judges
it.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grader.checks.crashes import crashed
from grader.checks.endings import finished, starved
from grader.harness.lab import Lab
from grader.verdicts import Finding, Gist, Inconclusive

SECONDS = 20  # for one question (workload/isolate.py)


@dataclass
class Answer:
    """The outcome of one question. All of it was reported beside student code."""

    question: dict
    values: dict = field(default_factory=dict)  # what the driver reported
    crash: dict | None = None  # the error that ended the process that was asked
    status: int | None = None  # its exit status, or -signal; None: it was never asked
    late: bool = False  # it was still running when its time was up
    waited: float = 0.0  # s of that without a processor
    run: Any = None  # the Run that it was asked in

    def given(self, think: str, when: tuple[str, str] | None = None) -> dict:
        """The reported values. Raises the Finding of a process that crashed, died or was late.

        think  a question that helps the author of the code
        when   a row of evidence: what the function was asked
        """
        rows = [when] if when else []
        asked = self.question["ask"]
        if self.values and not self.late and self.status == 0:
            return self.values
        if self.late and starved(SECONDS, self.waited):
            raise Inconclusive(
                "starved",
                [
                    *rows,
                    (
                        "machine",
                        f"busy: of {SECONDS} s, the process waited {self.waited:.0f} s for a "
                        "processor",
                    ),
                ],
            )
        if self.crash:
            finding = crashed(self.crash, rows)
            finding.think = think
            raise finding
        raise Finding("answer", [*rows, Gist("ended", self._how())], about=asked, think=think)

    def _how(self) -> str:
        if self.status is None:
            return "the process ended before it was asked"
        if self.late:
            return f"the process that was asked was still running after {SECONDS} s"
        if self.status < 0:
            name = signal.Signals(-self.status).name
            return f"{name} killed the process that was asked"
        return f"the process that was asked ended with exit status {self.status}"


def ask(
    lab: Lab, script: str, questions: list[dict], *argv: object,
    directory: Path | None = None, fresh: bool = False, trusted: bool = False,
) -> list[Answer]:  # fmt: skip
    """Have one life of `script` answer all questions, in this order.

    questions  JSON objects; "ask" names what the driver does
    directory  where the driver works; a new one without it
    fresh      in a plainly started interpreter: its hash secret and addresses are its own
    trusted    without the submission
    """
    numbered = [question | {"id": f"{lab.draw.getrandbits(64):016x}"} for question in questions]
    run = lab.launch(
        script,
        *argv,
        directory=directory,
        given={"questions": numbered},
        fresh=fresh,
        trusted=trusted,
    )
    life = run.last
    found = {question["id"]: Answer(question, run=run) for question in numbered}
    for event in life.events:
        answer = found.get(
            event.get("id") if event.get("event") == "answer" else event.get("point")
        )
        if answer is None:
            continue
        if (
            event["event"] == "answer"
            and isinstance(event.get("values"), dict)
            and not answer.values
        ):
            answer.values = event["values"]
        elif event["event"] == "crash" and answer.crash is None:
            answer.crash = event
        elif event["event"] == "ended" and answer.status is None:
            answer.status, answer.late = event["status"], event["late"]
            answer.waited = event.get("waited", 0.0)
    if any(answer.status is None for answer in found.values()):
        finished(lab, run)  # says why, if the life itself ended early
    return list(found.values())
