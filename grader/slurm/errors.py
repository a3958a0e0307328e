"""What can go wrong with a cluster, other than the user's input (that is errors.UsageError): exit
status 3.
"""


class ClusterError(Exception):
    """The cluster didn't start, doesn't answer, or didn't do in time what was waited for. One line,
    and what the daemons said.
    """


class NotInstalled(ClusterError):
    """Something that the cluster needs isn't on this machine."""
