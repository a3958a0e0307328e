"""The site's own cluster, from a login node: starts and ends nothing but the jobs that the grader
submits.
"""

from __future__ import annotations

import os
import shutil

from grader.slurm.cluster import Cluster
from grader.slurm.errors import NotInstalled


class Site(Cluster):
    """A cluster that the site runs: `run`, `submit`, `job` and `wait_for` talk to it.

    partition, account   where its jobs go; None: the site's defaults, or what the scripts say
    NotInstalled where there is no sbatch.
    """

    kind = "site"

    def __init__(self, partition: str | None = None, account: str | None = None):
        super().__init__(os.getcwd())
        self.wanted = {"SBATCH_PARTITION": partition, "SBATCH_ACCOUNT": account}

    def start(self, stay: bool = False) -> None:
        if shutil.which("sbatch") is None:
            raise NotInstalled(
                "there is no sbatch here: --cluster site works on a login node of a Slurm cluster"
            )

    def stop(self) -> None:
        """Do nothing: the site keeps running, and whoever submitted jobs cancels them."""

    @property
    def env(self) -> dict[str, str]:
        # of a job that this may run in
        inside = ("SLURM_JOB", "SLURM_STEP", "SLURM_ARRAY", "SLURM_RESTART")
        mine = {k: v for k, v in os.environ.items() if not k.startswith(inside)}
        return mine | {k: v for k, v in self.wanted.items() if v}
