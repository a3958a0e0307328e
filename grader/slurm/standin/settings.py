"""The settings of a stand-in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from grader.errors import UsageError
from grader.slurm.config import MOST_NODES

# lines of slurm.conf that it heeds
SETTINGS = ("RequeueExit", "JobFileAppend", "SlurmctldParameters", "FirstJobId")


@dataclass(frozen=True)
class Options:
    nodes: int = 2
    cpus: int = 8
    grace: float = 10  # s; as short as you like, where Slurm's is kill_wait + 5 at least
    kill_wait: float = 5  # s
    proctrack: str = "auto"
    fast_limits: bool = False  # limits are always exact here
    settings: dict[str, str | None] = field(default_factory=dict)
    requeue_delay: float = 0.2  # s that a requeued job isn't started in

    def check(self) -> None:
        """UsageError, in one line, if it can't be."""
        for name, least, most in (
            ("nodes", 1, MOST_NODES),
            ("cpus", 1, 1024),
            ("grace", 0, 3600),
            ("kill_wait", 0, 3600),
            ("requeue_delay", 0, 3600),
        ):
            value, kinds = getattr(self, name), int if name in ("nodes", "cpus") else (int, float)
            if not isinstance(value, kinds) or not least <= value <= most:
                raise UsageError(f"{name}={value!r}: a cluster has {least} to {most}")
        if self.proctrack != "auto":
            raise UsageError(
                f"proctrack={self.proctrack!r}: the stand-in has one rule, that of cgroup; the "
                "real cluster has others: make slurm"
            )
        for key, value in self.settings.items():
            if key not in SETTINGS:
                raise UsageError(
                    f"the stand-in doesn't know {key}={value} of slurm.conf; the real cluster "
                    "does: make slurm"
                )
            if key == "SlurmctldParameters" and value not in (None, "", "preempt_send_user_signal"):
                raise UsageError(
                    f"the stand-in doesn't know {key}={value}; the real cluster does: make slurm"
                )
            if key == "FirstJobId" and not str(value).isdigit():
                raise UsageError(f"{key}={value!r} isn't a number")


def check_socket(directory: Path) -> None:
    """UsageError if a Unix socket can't be made in it: macOS has 103 bytes for its path."""
    if len(str(directory / "socket").encode()) > 103:
        raise UsageError(f"{directory} is too long for a Unix socket in it")
