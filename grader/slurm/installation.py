"""Which Slurm is installed, and what is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

from grader.slurm.errors import ClusterError, NotInstalled

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "salloc", "squeue", "scancel", "scontrol", "sinfo", "sacct")
# not in the PATH of an ordinary user
ALSO_IN = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/local/bin")


@dataclass(frozen=True)
class Programs:
    paths: dict[str, str]
    version: tuple[int, int]  # of Slurm: (22, 5)

    @property
    def folders(self) -> list[str]:
        return list(dict.fromkeys(os.path.dirname(p) for p in self.paths.values()))


def find() -> Programs:
    """NotInstalled, in one line, if anything is missing."""
    if not sys.platform.startswith("linux"):
        raise NotInstalled("a Slurm cluster needs Linux (grader/slurm/README.md)")
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), *ALSO_IN])
    names = DAEMONS + CLIENTS
    paths = {name: at for name in names if (at := shutil.which(name, path=search))}
    if missing := [name for name in names if name not in paths]:
        problem = (
            "Slurm isn't installed here"
            if not paths
            else f"Slurm isn't complete here: no {', '.join(missing)}"
        )
        raise NotInstalled(
            f"{problem}; on Debian and Ubuntu, `make slurm` installs it (elsewhere: "
            "grader/slurm/README.md)"
        )
    try:
        # without a SLURM_CONF of its own it answers all the same: -V reads no configuration
        said = subprocess.run(
            [paths["slurmctld"], "-V"], capture_output=True, text=True, timeout=10
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ClusterError(f"{paths['slurmctld']} -V: {e}") from e
    number = re.search(r"(\d+)\.(\d+)", said)
    if not number:
        raise ClusterError(
            f"{paths['slurmctld']} -V doesn't say which version it is: {said.strip()[:80]!r}"
        )
    return Programs(paths, (int(number[1]), int(number[2])))
