"""Finds lives that hang: how long a life has reported nothing although it could run, and its stack.

A life reports each step, save and call; these take milliseconds. So a life that reports nothing for
seconds hangs. Time in which it waits for a processor or the disk doesn't count: a busy machine
isn't the code's fault.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from grader.processes import descendants
from grader.processor_time import KNOWN, ProcessorWait

ALONE = 2.0  # s that a rank may go on in silence after another rank has ended
NOTED = 0.02  # s of waiting between two looks, from which on `stalls` holds them
LONGEST = 0.5  # s between two looks that count: a late look means that the machine was busy
# without the kernel's word on who waits for a processor, this share of the time counts
SHARE = 1.0 if KNOWN else 1 / 3

WHERE = signal.SIGURG  # asks a process for its stack; a process that isn't ready ignores it
ANSWER = 1.0  # s to wait for a stack
SETTLED = 0.05  # s in which a stack doesn't grow any more: it is written line by line
ASKED = 3.0  # s for the stacks of all processes of a life


class Silence:
    """The silence of one process of a life, and of those that it may wait for.

    A rank hangs only if all ranks that still run are silent. Each guardian sees the processes of
    its own rank alone, so it writes what it measured into a file that the others read.
    """

    def __init__(self, job: dict[str, Any], main: int) -> None:
        self.limit: float = job["limits"]["quiet"]
        self.main, self.reports = main, job["reports"]
        self.others: list[dict[str, str]] = list(job["others"])  # that haven't ended
        self.seconds = 0.0
        self.stalled = 0.0  # s of its whole life in which it couldn't run
        self.stalls: list[tuple[float, float, float]] = []  # from, to (monotonic), s of stalling
        self.alone = 0.0  # s since another rank ended; they count as `seconds` do
        self._wait = ProcessorWait()
        self._size = 0
        self._said = os.open(job["silence"], os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def lasts_too_long(self) -> bool:
        """Look again. Call this often: what happens between two looks is seen only in sum."""
        counts = self._counts()
        size = self._reported()
        if size != self._size or size == 0:  # nothing can be expected before the first report
            self._size, self.seconds = size, 0.0
        else:
            self.seconds += counts
        os.pwrite(self._said, f"{self.seconds:15.3f}".encode(), 0)
        self.alone += counts
        for other in list(self.others):
            if os.path.exists(other["result"]):
                self.others.remove(other)
                self.alone = 0.0
        return (
            self.seconds > self.limit
            and self.alone > ALONE
            and all(_silence_of(other) > self.limit for other in self.others)
        )

    def _reported(self) -> int:
        size = 0
        for path in self.reports:
            with suppress(OSError):  # it isn't there yet
                size += os.stat(path).st_size
        return size

    def _counts(self) -> float:
        """Seconds since the last look in which it could have run."""
        looked = self._wait.looked
        passed, stalled = self._wait.look(_threads(self.main))
        self.stalled += stalled
        if stalled > NOTED:
            self.stalls.append((round(looked, 3), round(looked + passed, 3), round(stalled, 3)))
        return max(0.0, min(passed, LONGEST) - stalled) * SHARE


def _silence_of(other: dict[str, str]) -> float:
    """s; 0 before its guardian has measured anything."""
    try:
        with open(other["silence"]) as f:
            return float(f.read() or 0)
    except (OSError, ValueError):
        return 0.0


def _threads(main: int) -> Iterator[tuple[int, str]]:
    for pid in {main, *descendants()}:
        with suppress(OSError):  # it has ended in the meantime
            for thread in os.listdir(f"/proc/{pid}/task"):
                yield pid, thread


def ask_where(main: int, stack: str) -> None:
    """Have each process of the life write its stack to the file `stack`, the last born first."""
    until = time.monotonic() + ASKED
    for pid in reversed(list(dict.fromkeys([main, *descendants()]))):
        if time.monotonic() < until and _answers(pid):
            ask_one(pid, stack)


def ask_one(pid: int, stack: str | int) -> None:
    """Have one process write its stack to the file, and wait until it has."""
    with suppress(OSError):  # it has just ended
        before = size = os.stat(stack).st_size
        os.kill(pid, WHERE)
        asked = grown = time.monotonic()
        while (now := time.monotonic()) < asked + ANSWER:
            time.sleep(0.01)
            if os.stat(stack).st_size != size:
                size, grown = os.stat(stack).st_size, now
            elif size != before and now > grown + SETTLED:
                break


def _answers(pid: int) -> bool:
    """Does it catch the signal? True if that is unknown."""
    try:
        with open(f"/proc/{pid}/status") as f:
            caught = next(line for line in f if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> (WHERE - 1) & 1)
    except (OSError, StopIteration, ValueError, IndexError):
        return True
