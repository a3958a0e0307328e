"""When to save, and when the job's time is over."""

from __future__ import annotations

import math
import os
import time

from .config import Config
from .reporting import _say


def _end_of_job() -> float:
    text = os.environ.get("SLURM_JOB_END_TIME", "")
    try:
        end = float(text or math.inf)
    except ValueError:
        end = math.nan
    if end > time.time():
        return end
    _say(f"SLURM_JOB_END_TIME={text} isn't this job's end (an old shell's?); ignored")
    return math.inf


class _Clock:
    def __init__(self, config: Config):
        self.config = config
        self.end_time = _end_of_job() if config.end_time is None else config.end_time
        self.longest = 0.0  # s between two checks of signals and the clock
        self.checked_at: float | None = None
        self.saved_at = time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        self.longest, self.checked_at = max(self.longest, now - (self.checked_at or now)), now

    def is_over(self, cost: float) -> bool:
        """Must the last save begin now? It takes `cost` s."""
        # s that remain for training, reckoned up to the next check
        return self.end_time - time.time() - self.config.margin - 2 * cost - self.longest < 0

    def told(self) -> str:
        at = f" at {time.ctime(self.end_time)}" if self.end_time < math.inf else ""
        return f"the job's time ends{at}"

    def is_late(self) -> bool:
        minutes = self.config.every_minutes
        return minutes is not None and time.monotonic() - self.saved_at > 60 * minutes
