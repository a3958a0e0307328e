"""A Slurm cluster on this machine: `with Cluster(directory) as cluster: cluster.run(["sbatch",
"job.sh"])`. Where Slurm can't be installed, `choose` gives a stand-in instead.
"""

from grader.slurm.backend import choose
from grader.slurm.cluster import Cluster
from grader.slurm.errors import ClusterError, NotInstalled
from grader.slurm.standin.cluster import StandIn

__all__ = ["Cluster", "ClusterError", "NotInstalled", "StandIn", "choose"]
