"""Faults: one injected event each. They fire at a step or a file-system event, never by the clock.

A fault has a short text form, printed with every verdict and accepted by `grade --fault`:

    kill@12          SIGKILL after step 12 (and after its save, if one was due)
    kill@20:event3   SIGKILL just before the 4th file-system event of the save at step 20
    tear@20:4096     SIGKILL when a file of the save at step 20 reaches byte 4096
    full@20:4096     the disk is full when a file of the save at step 20 reaches byte 4096
    error@20:event3  the 4th file-system event of the save at step 20 fails, as on a full disk
                     (ENOSPC)
    word@20:0        SIGKILL when the job, after step 20, writes the first byte of something that is
                     no checkpoint
    kill@12:rank1    of several ranks, it strikes rank 1 (every other fault can be aimed as well)
    term@12          a preemption: grader/harness/preemption.py

Torn and full are limits on the size of a file (RLIMIT_FSIZE), which need no root and strike at an
exact byte. So a full disk fails with EFBIG here, not with ENOSPC; the writer gets an OSError from
both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from grader.harness import preemption
from grader.harness.preemption import Preempt


@dataclass(frozen=True)
class Fault:
    kind: str  # "kill", "tear", "full", "error" or "word"
    step: int  # the optimizer step after which, or in whose save, it fires
    event: int | None = None  # kill, error: the save's file-system event before which it fires
    byte: int | None = None  # tear, full: the file size at which it fires
    rank: int | None = None  # of a group of ranks, the one that it strikes

    def __str__(self) -> str:
        text = f"{self.kind}@{self.step}"
        if self.event is not None:
            text += f":event{self.event}"
        if self.byte is not None:
            text += f":{self.byte}"
        return text if self.rank is None else f"{text}:rank{self.rank}"

    @property
    def in_save(self) -> bool:
        return self.event is not None or self.byte is not None

    @property
    def story(self) -> str:
        struck, whose = (
            ("", "") if self.rank is None else (f" of rank {self.rank}", f" for rank {self.rank}")
        )
        if self.kind == "kill" and not self.in_save:
            return f"SIGKILL{struck} after step {self.step}"
        if self.kind == "kill":
            return (
                f"SIGKILL{struck} in the save of step {self.step}, before its file-system "
                f"event {self.event}"
            )
        if self.kind == "error":
            return (
                f"disk full{whose} in the save of step {self.step}, at its file-system event "
                f"{self.event}"
            )
        if self.kind == "word":
            return (
                f"SIGKILL{struck} while it wrote status.json, or another file that isn't a "
                f"checkpoint, after step {self.step}"
            )
        if self.kind == "tear":
            return (
                f"SIGKILL{struck} in the save of step {self.step}, when a file reached byte "
                f"{self.byte}"
            )
        return (
            f"disk full{whose} in the save of step {self.step}, when a file reached byte "
            f"{self.byte}"
        )

    def of_rank(self, rank: int) -> Fault | None:
        """The part of it that strikes this rank."""
        return self if rank == (self.rank or 0) else None

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if v is not None}


AnyFault = Fault | Preempt  # what one life of a run may meet


def Kill(after_step: int, rank: int | None = None) -> Fault:
    return Fault("kill", after_step, rank=rank)


def KillInSave(step: int, event: int, rank: int | None = None) -> Fault:
    return Fault("kill", step, event=event, rank=rank)


def Tear(step: int, byte: int) -> Fault:
    return Fault("tear", step, byte=byte)


def TearWord(step: int) -> Fault:
    # at byte 0: if some bytes fit, the write is short, and careless code continues; SIGKILL never
    # allows that
    return Fault("word", step, byte=0)


def DiskFull(step: int, byte: int) -> Fault:
    return Fault("full", step, byte=byte)


_TEXT = re.compile(
    r"(?:(kill)@(\d+)(?::event(\d+))?|(tear|full|word)@(\d+):(\d+)|(error)@(\d+):event(\d+))(?::rank(\d+))?\Z"
)


def parse(text: str) -> AnyFault:
    """The fault that `str` wrote. ValueError, with the forms it knows, for anything else."""
    if preempt := preemption.parse(text):
        return preempt
    m = _TEXT.match(text.strip())
    if not m:
        raise ValueError(
            f"'{text}' isn't a fault; a fault looks like kill@12, kill@20:event3, tear@20:4096, "
            "full@20:4096, kill@12:rank1, term@7 or usr1@8:event2"
        )
    rank = None if m[10] is None else int(m[10])
    if m[7]:
        return Fault("error", int(m[8]), event=int(m[9]), rank=rank)
    if m[1]:
        return Fault("kill", int(m[2]), event=None if m[3] is None else int(m[3]), rank=rank)
    return Fault(m[4], int(m[5]), byte=int(m[6]), rank=rank)


def parse_schedule(text: str) -> tuple[AnyFault, ...]:
    """A fault schedule: one fault per life, joined with '+': kill@7+kill@9."""
    return tuple(parse(part) for part in text.split("+"))


def show_schedule(faults: Sequence[AnyFault]) -> str:
    return "+".join(str(f) for f in faults) or "none"
