"""A cluster's options, and the slurm.conf made of them."""

from __future__ import annotations

import os
import pwd
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from grader.errors import UsageError

# direct: pgid, changed so that signals reach the same processes as under cgroup (directsignals.c)
PROCTRACK = ("auto", "cgroup", "direct", "pgid", "linuxproc")
MOST_NODES = 16
# A Unix socket's path has 107 bytes; the longest below the directory is slurmstepd's:
# /n16/n16_JOBID.STEPID+HET
LONGEST = 107 - len("/n16/n16_67108863.4294967291+4294967294")


class Checked(Protocol):
    """A cluster's options, whichever kind it is."""

    def check(self) -> None:
        """UsageError, in one line, if it can't be."""


@dataclass(frozen=True)
class Options:
    nodes: int = 2
    cpus: int = 8  # per node, pretended: nothing holds a job to them
    grace: int = 10  # s that a preempted job of `low` has (Slurm: at least kill_wait + 5)
    kill_wait: int = 5  # s between SIGTERM and SIGKILL at every other end; Slurm's default is 30
    proctrack: str = "auto"
    fast_limits: bool = False  # look at time limits every 2 s instead of every 30
    # further lines of slurm.conf; None removes one
    settings: dict[str, str | None] = field(default_factory=dict)

    def check(self) -> None:
        """UsageError, in one line, if it can't be."""
        for name, least, most in (
            ("nodes", 1, MOST_NODES),
            ("cpus", 1, 1024),
            ("grace", 0, 3600),
            ("kill_wait", 0, 3600),
        ):
            if not isinstance(value := getattr(self, name), int) or not least <= value <= most:
                raise UsageError(f"{name}={value!r}: a cluster has {least} to {most}")
        if self.proctrack not in PROCTRACK:
            raise UsageError(f"proctrack={self.proctrack!r}: it is one of {', '.join(PROCTRACK)}")
        for key, value in self.settings.items():
            if not key.isalnum() or "\n" in (value or ""):
                raise UsageError(f"{key}={value!r} isn't a line of slurm.conf")


def check_directory(directory: Path) -> None:
    """UsageError if Slurm can't work in a directory of this name."""
    name = os.fsencode(directory)
    if len(name) > LONGEST:
        raise UsageError(
            f"{directory} is {len(name)} bytes long; a cluster's directory has at most "
            f"{LONGEST}, because a Unix socket's path has 107"
        )
    if odd := re.search(r"[^A-Za-z0-9._/+@~-]", str(directory)):
        raise UsageError(f"{directory} has a {odd[0]!r}, which slurm.conf doesn't allow")


def user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise UsageError(
            f"the user id {os.geteuid()} has no name on this machine, but Slurm needs one"
        ) from None


HERE = "127.0.0.1"


def name_is_here() -> bool:
    """Whether Slurm without help listens on 127.0.0.1 only. It listens on the address of this
    machine's name, or on all addresses. If the name means 127.0.1.1, as on Debian, slurmd doesn't
    find srun on 127.0.0.1.
    """
    try:
        return {
            a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
        } == {HERE}
    except OSError:
        return False


def slurm_conf(directory: Path, options: Options, ports: list[int], proctrack: str) -> str:
    """ports[0] is slurmctld's, the others the nodes'."""
    host = socket.gethostname().partition(".")[0]
    lines = {
        "ClusterName": "loopback",
        "SlurmctldHost": f"{host}({HERE})",
        "SlurmctldPort": ports[0],
        "SlurmUser": user(),
        "SlurmdUser": user(),
        "CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny" if name_is_here() else None,
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        # a requeued job may start once its credential has expired: 2 min by default, 5 s at least
        "AuthInfo": f"socket={directory}/munge/socket,cred_expire=5",
        "StateSaveLocation": f"{directory}/state",
        "SlurmctldPidFile": f"{directory}/slurmctld.pid",
        "SlurmctldDebug": "info",
        "SlurmdSpoolDir": f"{directory}/%n",
        "SlurmdPidFile": f"{directory}/%n.pid",
        "SlurmdLogFile": f"{directory}/log/%n.log",
        "SlurmdDebug": "info",
        "ProctrackType": f"proctrack/{'pgid' if proctrack == 'direct' else proctrack}",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "MailProg": "/bin/true",  # --mail-type sends nothing from here
        "ReturnToService": 2,
        "SlurmdParameters": "config_overrides",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": (
            "batch_sched_delay=0,sched_interval=1,sched_min_interval=0,"
            "bf_interval=1,bf_min_age_reserve=0"
        ),
        "PriorityType": "priority/basic",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "KillWait": options.kill_wait,
        "MessageTimeout": 5,
        "MinJobAge": 3600,  # s that squeue and scontrol still know a job that has ended
        "JobCompType": "jobcomp/filetxt",
        "JobCompLoc": f"{directory}/jobcomp.log",
    }
    lines.update(options.settings)
    nodes = [
        f"NodeName=n{n} NodeHostname={host} NodeAddr={HERE} Port={port} CPUs={options.cpus} "
        "RealMemory=65536 State=UNKNOWN"
        for n, port in enumerate(ports[1:], 1)
    ]
    partitions = [
        (
            "PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 "
            f"PreemptMode=REQUEUE GraceTime={options.grace}"
        ),
        "PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF",
    ]
    return "\n".join(
        [*(f"{k}={v}" for k, v in lines.items() if v is not None), *nodes, *partitions, ""]
    )


def cgroup_conf(directory: Path, version: tuple[int, int], proctrack: str) -> str:
    """slurmd looks for cgroups at its start even if nothing uses them; v1 named outright needs none
    to be mounted.
    """
    if proctrack == "cgroup":
        return f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={directory}/cgroup\n"
    return "CgroupPlugin=disabled\n" if version >= (24, 5) else "CgroupPlugin=cgroup/v1\n"
