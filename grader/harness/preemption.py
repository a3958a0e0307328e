"""Preemption as a fault: signals that a scheduler sends into one life, each at a chosen point of
the job.

Its text form, printed with every verdict and accepted by `grade --fault`:

    term@7                 SIGTERM in the middle of step 7, while the optimizer updates the weights
    term@7:end             SIGTERM at the end of step 7, when its time has passed
    usr1@8:event2          SIGUSR1 just before the 3rd file-system event of a save at step 8
    term@10:evaluation3    SIGTERM before part 3 of the evaluation that follows step 10
    term@0:start           SIGTERM while the job is being built (:resume, while a checkpoint is
                           loaded)
    term@7:failing         SIGTERM in step 7, just before the job raises an error
    term@7:leaving0        SIGTERM when the job, stopped after step 7, is about to
                           touch something in its directory that isn't a checkpoint, for the first
                           time (1: the second)
    term@7:group           to the whole process group: DataLoader workers, too
    term@7:agent           to torchrun, which forwards it to its workers
    term@7:rank1           of several ranks, to rank 1
    term@7,usr1@8:event2   both, in one life

SIGKILL follows when the grace period is over, by the life's own clock
(grader/workload/ex03/virtual_clock.py), not the wall clock.
"""

from __future__ import annotations

import hmac
import json
import re
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grader.harness import scratch

NUMBERS = {"term": signal.SIGTERM, "usr1": signal.SIGUSR1}
_WHERE = {
    "": "in the middle of step {step}",
    "end": "at the end of step {step}",
    "start": "while the job was being built",
    "resume": "while a checkpoint was being loaded",
    "evaluation": "in the evaluation after step {step}, before its part {n}",
    "event": "in a save at step {step}, before its file-system event {n}",
    "failing": "after step {step}, just before the job fails",
    "leaving": (
        "when the job, stopped after step {step}, was about to exit, before its "
        "file-system event {n}"
    ),
}


@dataclass(frozen=True)
class Sent:
    """One signal, and the point at which it is sent."""

    signal: str  # "term" or "usr1"
    step: int  # the optimizer step that is in progress, or that was the last
    phase: str = ""  # a key of _WHERE
    number: int | None = None  # evaluation: its part; event: the save's event; leaving: which one
    to: str = ""  # "": the process; "group": its process group; "agent": torchrun
    rank: int | None = None  # of a group of ranks, the one that gets it; None: all

    def __str__(self) -> str:
        text = f"{self.signal}@{self.step}"
        if self.phase:
            text += f":{self.phase}{'' if self.number is None else self.number}"
        text += f":{self.to}" if self.to else ""
        return text if self.rank is None else f"{text}:rank{self.rank}"

    @property
    def story(self) -> str:
        to = "" if self.rank is None else f" to rank {self.rank}"
        to += {"": "", "group": " to the process group", "agent": " to torchrun"}[self.to]
        return (
            f"SIG{self.signal.upper()}{to} "
            f"{_WHERE[self.phase].format(step=self.step, n=self.number)}"
        )


@dataclass(frozen=True)
class Preempt:
    """The signals of one life."""

    signals: tuple[Sent, ...]

    kind = "preempt"
    rank = None  # the group as a whole leaves as preempted

    def __str__(self) -> str:
        return ",".join(map(str, self.signals))

    @property
    def step(self) -> int:
        return self.signals[0].step

    @property
    def in_save(self) -> bool:
        return any(s.phase == "event" for s in self.signals)

    @property
    def story(self) -> str:
        return ", and ".join(s.story for s in self.signals)

    def of_rank(self, rank: int) -> Preempt | None:
        mine = tuple(s for s in self.signals if s.rank in (None, rank))
        return Preempt(mine) if mine else None

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "signals": [asdict(s) for s in self.signals]}


def send(
    signal: str,
    step: int,
    phase: str = "",
    number: int | None = None,
    to: str = "",
    rank: int | None = None,
) -> Preempt:
    """A preemption by one signal."""
    return Preempt((Sent(signal, step, phase, number, to, rank),))


def both(*preemptions: Preempt) -> Preempt:
    """One preemption with all of their signals."""
    return Preempt(tuple(s for p in preemptions for s in p.signals))


def proof(token: str, event: str, what: dict[str, Any]) -> str:
    """Proof that the reporter of this event knows the token."""
    said = json.dumps([event, what], sort_keys=True).encode()
    return hmac.new(token.encode(), said, "sha256").hexdigest()


TORN = "(torn)"  # the file is there, but can't be read


def last_word(directory: Path) -> str | None:
    """The outcome in status.json, as an outsider would read it; None if there is none, TORN if it
    isn't whole.
    """
    try:
        found = json.loads(scratch.read(directory / "status.json", 1 << 12))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return TORN
    says = found.get("outcome") if isinstance(found, dict) else None
    return says if isinstance(says, str) else None


NUMBERED = ("evaluation", "event", "leaving")
_TEXT = re.compile(
    r"(term|usr1)@(\d+)(?::(end|start|resume|failing|(?:evaluation|event|leaving)(?=\d))(\d+)?)?(?::(group|agent))?(?::rank(\d+))?\Z"
)


def parse(text: str) -> Preempt | None:
    """The preemption that `str` wrote; None for anything else."""
    parts = text.split(",")
    found = [m for part in parts if (m := _TEXT.match(part.strip()))]
    if len(found) < len(parts):
        return None
    number = [None if m[4] is None else int(m[4]) for m in found]
    if any((n is not None) != (m[3] in NUMBERED) for n, m in zip(number, found, strict=False)):
        return None
    return Preempt(
        tuple(
            Sent(m[1], int(m[2]), m[3] or "", n, m[5] or "", None if m[6] is None else int(m[6]))
            for m, n in zip(found, number, strict=False)
        )
    )
