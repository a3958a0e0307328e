"""A job: what was asked for, its state, and the environment that its processes get."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field
from typing import Protocol

from grader.slurm.standin.formats import FINAL, node_list
from grader.slurm.standin.stepd import Container

YEAR = 365 * 24 * 60  # min: what a job without a limit gets, as on the real cluster


class Launcher(Protocol):
    def allocated(self, job: Job) -> None:
        """It has its nodes."""


@dataclass
class Job:
    id: int
    spec: dict  # as sbatch or srun sent it: script, args, env, cwd, umask and options
    submitted: float = field(default_factory=time.time)
    # {"job", "task", "tasks": all of them, "limit": how many at once or None}
    array: dict | None = None
    state: str = "PENDING"
    completing: bool = False  # it has ended, and not all of its processes have
    requeue: bool = False  # once they have, it goes back to the queue
    reason: str = "None"
    restarts: int = 0
    eligible: float = 0.0
    start: float | None = None
    end: float | None = None
    limit: int | None = None  # min
    nodes: dict[str, int] = field(default_factory=dict)  # name -> tasks there
    cpus: dict[str, int] = field(default_factory=dict)  # name -> CPUs taken there
    exit: int = 0  # as wait says it
    record: dict = field(default_factory=dict)  # the latest in what `sacct -c` knows
    unmet: list[tuple[str, int]] = field(default_factory=list)  # dependencies: (type, job)
    never: bool = False  # one of them can no longer be met
    warned: bool = False
    killed: bool = False  # kill_wait is over
    preempted: bool = False  # its grace is running
    batch: Container | None = None  # the container of its shell
    steps: dict = field(default_factory=dict)
    timers: dict = field(default_factory=dict)
    waiting: list = field(default_factory=list)  # conversations that wait for its end
    launcher: Launcher | None = None  # the conversation of an srun that made the allocation itself
    last_step: int = -1

    @property
    def shown(self) -> str:
        return "COMPLETING" if self.completing else self.state

    @property
    def over(self) -> bool:
        return self.state in FINAL and not self.completing

    @property
    def active(self) -> bool:
        """Whether it holds its nodes."""
        return self.state == "RUNNING" or self.completing

    @property
    def ref(self) -> str:
        return f"{self.array['job']}_{self.array['task']}" if self.array else str(self.id)

    @property
    def partition(self) -> str:
        return self.spec["partition"]

    @property
    def wanted_tasks(self) -> int:
        spec = self.spec
        nodes = spec.get("nodes") or 1
        return spec.get("ntasks") or nodes * (spec.get("ntasks_per_node") or 1)

    def describe(self) -> dict:
        """What clients show of it."""
        keys = (
            "partition",
            "name",
            "user",
            "cwd",
            "command",
            "comment",
            "dependency",
            "cpus_per_task",
            "may_requeue",
            "signal",
            "exclusive",
        )
        wanted = {
            "ntasks": self.wanted_tasks,
            "wanted_nodes": self.spec.get("nodes") or 1,
            "out": self.spec["out"],
            "err": self.spec.get("err") or self.spec["out"],
        }
        now = {
            k: getattr(self, k)
            for k in (
                "id",
                "array",
                "state",
                "reason",
                "restarts",
                "start",
                "end",
                "limit",
                "exit",
                "submitted",
                "eligible",
                "completing",
            )
        }
        dependency = ",".join(
            f"{kind}:{job}({'failed' if self.never else 'unfulfilled'})"
            if job
            else f"{kind}(unfulfilled)"
            for kind, job in self.unmet
        )
        return (
            {k: self.spec.get(k) for k in keys}
            | wanted
            | now
            | {
                "shown": self.shown,
                "ref": self.ref,
                "nodes": list(self.nodes),
                "cpus": sum(self.cpus.values()),
                "batch": "script" in self.spec,
                "dependency": dependency or None,
            }
        )

    # --- environments -----------------------------------------------------------------------------

    def environment(self, conf: str) -> dict[str, str]:
        """The environment of the batch shell, from which its steps inherit. Variables of an outer
        job that this one doesn't set stay, as on the real cluster: SLURM_RESTART_COUNT of a
        requeued job that submits another one, for example.
        """
        spec, names = self.spec, list(self.nodes)
        env = {
            k: v for k, v in spec["env"].items() if not k.startswith(("SLURM_STEP", "SLURM_SRUN_"))
        }
        for name in (
            "SLURM_NTASKS",
            "SLURM_NPROCS",
            "SLURM_CPUS_PER_TASK",
            "SLURM_NTASKS_PER_NODE",
        ):
            env.pop(name, None)
        tasks = counts(list(self.nodes.values()))
        for both, value in (
            ("ID", self.id),
            ("NODELIST", node_list(names)),
            ("NUM_NODES", len(names)),
            ("NAME", spec["name"]),
        ):
            env[f"SLURM_JOB_{both}"] = str(value)
        env |= {
            "SLURM_JOBID": str(self.id),
            "SLURM_NODELIST": node_list(names),
            "SLURM_NNODES": str(len(names)),
            "SLURM_CONF": conf,
            "SLURM_CLUSTER_NAME": "loopback",
            "SLURM_JOB_PARTITION": spec["partition"],
            "SLURM_JOB_UID": str(os.getuid()),
            "SLURM_JOB_GID": str(os.getgid()),
            "SLURM_JOB_USER": spec["user"],
            "SLURM_JOB_CPUS_PER_NODE": counts(list(self.cpus.values())),
            "SLURM_CPUS_ON_NODE": str(self.cpus[names[0]]),
            "SLURM_TASKS_PER_NODE": tasks,
            "SLURM_NODE_ALIASES": "(null)",
            "SLURM_PRIO_PROCESS": "0",
            "SLURM_SUBMIT_DIR": spec["submit_dir"],
            "SLURM_SUBMIT_HOST": socket.gethostname(),
            "SLURMD_NODENAME": names[0],
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": "0",
            "SLURM_GTIDS": "0",
        }
        if spec.get("ntasks") or spec.get("ntasks_per_node"):
            env |= {"SLURM_NTASKS": str(self.wanted_tasks), "SLURM_NPROCS": str(self.wanted_tasks)}
        if spec.get("cpus_per_task"):
            env["SLURM_CPUS_PER_TASK"] = str(spec["cpus_per_task"])
        if spec.get("ntasks_per_node"):
            env["SLURM_NTASKS_PER_NODE"] = str(spec["ntasks_per_node"])
        if self.restarts:
            env["SLURM_RESTART_COUNT"] = str(self.restarts)
        if self.array:
            numbers = self.array["tasks"]
            step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
            for name, value in (
                ("JOB_ID", self.array["job"]),
                ("TASK_ID", self.array["task"]),
                ("TASK_COUNT", len(numbers)),
                ("TASK_MIN", numbers[0]),
                ("TASK_MAX", numbers[-1]),
                ("TASK_STEP", step),
            ):
                env[f"SLURM_ARRAY_{name}"] = str(value)
        return env

    def task_environments(
        self, base: dict[str, str], step: int, layout: dict[str, int]
    ) -> list[dict[str, str]]:
        """One per task of a step that runs this many tasks on each node."""
        total = sum(layout.values())
        found: list[dict[str, str]] = []
        common = base | {
            "SLURM_STEP_ID": str(step),
            "SLURM_STEPID": str(step),
            "SLURM_STEP_NODELIST": node_list(layout),
            "SLURM_STEP_NUM_NODES": str(len(layout)),
            "SLURM_STEP_NUM_TASKS": str(total),
            "SLURM_STEP_TASKS_PER_NODE": counts(list(layout.values())),
            "SLURM_NTASKS": str(total),
            "SLURM_NPROCS": str(total),
            "SLURM_DISTRIBUTION": "block",
            "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
            "SLURM_SRUN_COMM_HOST": "127.0.0.1",
        }
        for node_id, (name, here) in enumerate(layout.items()):
            first = len(found)
            for local in range(here):
                found.append(
                    common
                    | {
                        "SLURMD_NODENAME": name,
                        "SLURM_NODEID": str(node_id),
                        "SLURM_LOCALID": str(local),
                        "SLURM_PROCID": str(first + local),
                        "SLURM_GTIDS": ",".join(str(n) for n in range(first, first + here)),
                        "SLURM_CPUS_ON_NODE": str(self.cpus[name]),
                    }
                )
        return found


def counts(numbers: list[int]) -> str:
    """2, 2, 1 -> 2(x2),1"""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and parts[-1][0] == n:
            parts[-1].append(n)
        else:
            parts.append([n])
    return ",".join(f"{p[0]}(x{len(p)})" if len(p) > 1 else str(p[0]) for p in parts)


def array_of(text: str) -> tuple[list[int], int | None]:
    """1-3%1 -> [1, 2, 3], 1; also 1,4 and 0-8:2. ValueError."""
    body, percent, limit = text.partition("%")
    numbers: set[int] = set()
    for part in body.split(","):
        span, _, step = part.partition(":")
        first, dash, last = span.partition("-")
        if dash and int(last) < int(first):
            raise ValueError(text)
        numbers.update(range(int(first), int(last if dash else first) + 1, int(step or 1)))
    if max(numbers) > 1000 or min(numbers) < 0 or (percent and int(limit) < 1):
        raise ValueError(text)
    return sorted(numbers), int(limit) if percent else None
