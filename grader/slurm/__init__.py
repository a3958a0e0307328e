"""A real Slurm cluster on loopback: `with Cluster(directory) as cluster: cluster.run(["sbatch", "job.sh"])`."""

from grader.slurm.cluster import Cluster
from grader.slurm.errors import ClusterError, NotInstalled

__all__ = ["Cluster", "ClusterError", "NotInstalled"]
