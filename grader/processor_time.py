"""How long threads waited for a processor, and how long a process could run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import NamedTuple

# whether the kernel says how long each thread ran and waited
KNOWN = os.path.exists("/proc/self/schedstat")


class ThreadState(NamedTuple):
    """What the kernel says of a thread."""

    letter: str  # R: it runs or waits for a processor; D: it waits for the disk; others: proc(5)
    ran: float  # s on a processor
    waited: float  # s for a processor; the kernel adds each wait when it ends


def thread_state(pid: int, thread: int | str) -> ThreadState | None:
    """None if it has ended or the kernel doesn't say."""
    try:
        with open(f"/proc/{pid}/task/{thread}/schedstat") as f:
            ran, waited, _ = f.read().split()
        with open(f"/proc/{pid}/task/{thread}/stat") as f:
            letter = f.read().rpartition(")")[2].split()[0]
        return ThreadState(letter, int(ran) / 1e9, int(waited) / 1e9)
    except (OSError, ValueError, IndexError):
        return None


class ProcessorWait:
    """How long threads waited for a processor or the disk between two looks.

    The kernel counts a wait when it ends. A thread that is ready, and hasn't run since the last
    look, has waited since then: it may wait for many looks before the kernel counts it.
    """

    def __init__(self, threads: Iterable[tuple[int, int | str]] = ()) -> None:
        self.looked = time.monotonic()
        self._states = {key: state for key in threads if (state := thread_state(*key))}
        self._before_count: dict[tuple[int, int | str], float] = {}  # s that the kernel will add

    def look(self, threads: Iterable[tuple[int, int | str]]) -> tuple[float, float]:
        """Seconds since the last look, and for how many of them a thread waited (at most all)."""
        now = time.monotonic()
        passed, self.looked = now - self.looked, now
        states = {key: state for key in threads if (state := thread_state(*key))}
        total, before_count = 0.0, {}
        for key, state in states.items():
            last = self._states.get(key, state)
            counted = self._before_count.get(key, 0.0)
            if state.letter == "D":
                total += passed
            elif state.letter == "R" and state.ran == last.ran and key in self._states:
                total += passed
                before_count[key] = counted + passed
            else:
                total += max(0.0, state.waited - last.waited - counted)
        self._states, self._before_count = states, before_count
        return passed, min(passed, total)


class RunningTime:
    """Wall time less that in which one of the processes was ready but had no processor.

    Ask it often: a wait that hasn't ended is seen between two questions.
    """

    def __init__(self, pids: list[int]) -> None:
        self._threads = [(pid, pid) for pid in pids]  # their main threads
        self._wait = ProcessorWait(self._threads)
        self._ran = 0.0

    def seconds(self) -> float:
        """Since it was made. Where the kernel doesn't say who waits, wall time."""
        passed, waited = self._wait.look(self._threads)
        self._ran += passed - waited
        return self._ran
