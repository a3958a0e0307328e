"""What can go wrong with a cluster, other than the user's input (that is errors.UsageError): exit
status 3.
"""


class ClusterError(Exception):
    """The cluster didn't start, doesn't answer, or was too slow. One line, and what the daemons
    logged.
    """


class NotInstalled(ClusterError):
    """Something that the cluster needs isn't on this machine."""
