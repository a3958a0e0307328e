"""The stand-in's Python interface: the same as that of `Cluster`, so that checks can use either."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from grader.slurm import ancestors
from grader.slurm.cluster import Cluster
from grader.slurm.config import check_directory
from grader.slurm.standin.settings import Options, check_socket


class StandIn(Cluster):
    """A stand-in for a Cluster, with its methods: start, stop, env, run, submit, job, wait_for,
    pids, status.

        with StandIn(tmp_path / "c", grace=2, kill_wait=1) as cluster:
            job = cluster.submit("job.sh")

    As Cluster, but grace and kill_wait may be fractions of a second and aren't lengthened, time
    limits are exact (fast_limits is accepted), proctrack is `auto`, whose rule is cgroup's, and
    `settings` has RequeueExit, JobFileAppend, FirstJobId and SlurmctldParameters. requeue_delay: s
    that a requeued job isn't started in.

    UsageError for options that it can't have, ClusterError if it doesn't start. Nothing needs to be
    installed.
    """

    kind = "stand-in"
    program = Path(__file__).with_name("controller.py")

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        nodes: int = 2,
        cpus: int = 8,
        grace: float = 10,
        kill_wait: float = 5,
        proctrack: str = "auto",
        fast_limits: bool = False,
        settings: dict[str, str | None] | None = None,
        requeue_delay: float = 0.2,
        jobs_see: Sequence[os.PathLike] = (),
        jobs_write: Sequence[os.PathLike] | None = None,
    ):
        super().__init__(directory, jobs_see=jobs_see, jobs_write=jobs_write)
        self.options = Options(
            nodes, cpus, grace, kill_wait, proctrack, fast_limits, settings or {}, requeue_delay
        )

    def _check(self) -> None:
        self.options.check()
        check_directory(self.directory)
        check_socket(self.directory)

    def _folders(self, path: str) -> Sequence[str]:
        return [str(self.directory / "bin"), path]

    def _job_of(self, chain: list[int]) -> str | None:
        """The job of a process: every process that a container starts gets its job's number."""
        container = ancestors.arguments(chain[-1]) == ancestors.arguments(self.pids()["keeper"])
        return (
            ancestors.environment(chain[-2]).get("SLURM_JOB_ID")
            if container and len(chain) > 1
            else None
        )

    def _answers(self) -> bool:
        return "keeper" in self.pids()

    def _facts(self, known: dict) -> dict:
        return {"kind": self.kind, "proctrack": "cgroup", "since": known.get("since", 0.0)}
