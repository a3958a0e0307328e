"""The cluster that a job is to run on, as the user chose it, and how fast things happen there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader.slurm import Cluster, StandIn, backend
from grader.slurm.site import Site


@dataclass(frozen=True)
class Pace:
    """How much time things have, in s. Slurm can't be faster than this, a stand-in can."""

    kill_wait: float = 5  # between SIGTERM and SIGKILL
    grace: float = 15  # of a preemption
    limit: int = 20  # that are left when a time limit comes near
    long: float = 7  # a save that kill_wait is too short for
    short: float = 1
    seconds: float = 150  # for a run; the longest takes about forty


@dataclass(frozen=True)
class Where:
    """The cluster on which runs happen: slurm, stand-in, site; auto: Slurm if it's installed."""

    kind: str = "auto"
    partition: str | None = None
    account: str | None = None

    @property
    def chosen(self) -> str:
        if self.kind != "auto":
            return self.kind
        return "stand-in" if backend.missing() else "slurm"

    @property
    def pace(self) -> Pace:
        return {
            "slurm": Pace(),
            "stand-in": Pace(kill_wait=1, grace=4, limit=6, long=2, short=0.3, seconds=60),
            "site": Pace(kill_wait=30, grace=0, limit=240, long=40, short=5, seconds=4 * 3600),
        }[self.chosen]

    def cluster(self, directory: Path, first_job: int = 1, **jobs: Any) -> Cluster:
        """`jobs`: what they may read and write (Cluster's jobs_see and jobs_write); a site has its
        own rules.
        """
        if self.chosen == "site":
            return Site(self.partition, self.account)
        kind = Cluster if self.chosen == "slurm" else StandIn
        times: dict[str, Any] = {
            "grace": self.pace.grace,
            "kill_wait": self.pace.kill_wait,
            "fast_limits": True,
        }
        return kind(directory, nodes=1, settings={"FirstJobId": str(first_job)}, **times, **jobs)
