"""`grade cluster up | status | shell | down`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from typing import Any

import click

from grader.errors import UsageError
from grader.slurm import backend, registry
from grader.slurm.cluster import Cluster, Status
from grader.slurm.config import MOST_NODES, PROCTRACK, Options
from grader.slurm.errors import ClusterError
from grader.slurm.standin.cluster import StandIn

SIGNALS = {
    "cgroup": (
        "reach the batch shell and srun's tasks, not their children (proctrack/cgroup, as "
        "on most sites)"
    ),
    "direct": (
        "reach the batch shell and srun's tasks, not their children (proctrack/pgid, made to "
        "behave like cgroup)"
    ),
    "pgid": (
        "reach the whole process group: also children, which most sites' proctrack/cgroup "
        "doesn't signal"
    ),
    "linuxproc": (
        "reach the whole process tree: also children, which most sites' "
        "proctrack/cgroup doesn't signal"
    ),
}


class Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ClusterError as e:
            click.echo(f"grade: {e}", err=True)
            sys.exit(3)


name_option = click.option(
    "--name", default=registry.DEFAULT, show_default=True, metavar="NAME", help="Which cluster."
)


@click.group("cluster", cls=Commands)
def command() -> None:
    """Start and end a Slurm cluster on this machine, or a stand-in for one."""


@command.command()
@name_option
@click.option(
    "--nodes",
    type=click.IntRange(1, MOST_NODES),
    default=2,
    show_default=True,
    metavar="N",
    help="n1, n2 ...",
)
@click.option(
    "--grace",
    type=click.IntRange(0, 3600),
    default=Options.grace,
    show_default=True,
    metavar="S",
    help="Seconds that a preempted job gets.",
)
@click.option(
    "--proctrack",
    type=click.Choice(PROCTRACK),
    default="auto",
    show_default=True,
    help="Which processes a job's signals reach (grader/slurm/README.md).",
)
@click.option(
    "--fast-limits",
    is_flag=True,
    help="Check time limits every 2 s, not every 30 (needs a C compiler).",
)
@click.option(
    "--stand-in",
    is_flag=True,
    help="Use the stand-in even if Slurm is installed (grader/slurm/standin).",
)
def up(
    name: str, nodes: int, grace: int, proctrack: str, fast_limits: bool, stand_in: bool
) -> None:
    """Start a cluster; it stays until `down`. If Slurm is missing, start a stand-in."""
    registry.free(name)
    made = registry.cluster(
        name,
        new=StandIn if stand_in else backend.kind(),
        nodes=nodes,
        grace=grace,
        proctrack=proctrack,
        fast_limits=fast_limits,
    )
    try:
        made.start(stay=True)
    finally:
        registry.tidy()
    option = "" if name == registry.DEFAULT else f" --name {name}"
    status = made.status()
    click.echo(
        f"{called(status)} {name} is up after {made.seconds:.1f} s: {nodes} nodes; partitions "
        f"low (default; preempted with {grace} s of grace) and high"
    )
    show_facts(made, status)
    click.echo(
        f"  next       grade cluster shell{option}    in it, sbatch, srun, squeue ... talk to "
        "this cluster"
    )
    path = (
        f" PATH={shlex.quote(str(made.directory / 'bin'))}:$PATH"
        if status.kind == StandIn.kind
        else ""
    )
    click.echo(f"  or         export SLURM_CONF={made.conf}{path}")
    click.echo(f"  the end    grade cluster down{option}")


def called(status: Status) -> str:
    return "cluster" if status.kind == Cluster.kind else "stand-in"


def show_facts(made: Cluster, status: Status) -> None:
    click.echo(f"  directory  {made.directory}")
    if status.kind == StandIn.kind:
        click.echo(
            "  isn't      Slurm: the same sequences, and only the options that scripts need "
            "(grader/slurm/standin/README.md)"
        )
        click.echo(
            "  signals    reach the batch shell and srun's tasks, not their children (as with "
            "proctrack/cgroup, on most sites)"
        )
    elif status.proctrack:
        click.echo(f"  signals    {SIGNALS[status.proctrack]}")
    if not status.only_loopback:
        click.echo(
            "  listens    on every address, not only on loopback: this machine's name doesn't "
            "mean 127.0.0.1, and there's no C compiler"
        )


@command.command()
def status() -> None:
    """Show your clusters: directories, nodes, jobs, and problems."""
    names, wrong = registry.every(), False
    if not names:
        click.echo("no cluster is up; start one: grade cluster up")
    for name in names:
        made = registry.cluster(name)
        seen = made.status()
        wrong |= seen.phase in ("broken", "dead")
        age = (
            f", for {_duration(time.time() - seen.since)}"
            if seen.since and seen.phase == "up"
            else ""
        )
        click.echo(f"{called(seen)} {name} is {seen.phase}{age}")
        for problem in seen.problems:
            click.echo(f"  problem    {problem}")
        if seen.phase in ("broken", "dead"):
            click.echo(f"  remedy     grade cluster down --name {name}, and up again")
        show_facts(made, seen)
        if seen.nodes:
            click.echo(
                f"  nodes      {', '.join(f'{node} {state}' for node, state in seen.nodes.items())}"
            )
            click.echo(f"  jobs       {seen.jobs[0] if seen.jobs else 'none'}")
            for job in seen.jobs[1:]:
                click.echo(f"             {job}")
    sys.exit(3 if wrong else 0)


def _duration(seconds: float) -> str:
    minutes = int(seconds / 60)
    return (
        f"{seconds:.0f} s"
        if minutes < 1
        else f"{minutes} min"
        if minutes < 120
        else f"{minutes // 60} h"
    )


@command.command(context_settings={"allow_interspersed_args": False})
@name_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND]...")
def shell(name: str, command: tuple[str, ...]) -> None:
    """Run a shell, or one command, that talks to a cluster. Exits with its exit status."""
    made = registry.cluster(name)
    seen = made.status()
    if seen.phase != "up":
        raise ClusterError(
            f"cluster '{name}' is {seen.phase}{': ' + seen.problems[0] if seen.problems else ''}"
        )
    if not command:
        command = (os.environ.get("SHELL") or "/bin/sh",)
        if sys.stdin.isatty():
            click.echo(
                f"a shell that talks to cluster {name}; `exit` leaves it, the cluster stays",
                err=True,
            )
    env = made.env
    program = shutil.which(command[0], path=env["PATH"])
    if program is None:
        raise UsageError(f"{command[0]}: no such command")
    sys.stdout.flush()
    os.execve(program, list(command), env)


@command.command()
@name_option
@click.option("--all", "every", is_flag=True, help="All of your clusters.")
def down(name: str, every: bool) -> None:
    """End a cluster: its jobs, its daemons, its directory. If none is up, do nothing."""
    chosen = registry.every() if every else [name] if registry.exists(name) else []
    for one in chosen:
        registry.cluster(one).stop()
        click.echo(f"cluster {one} is gone")
    if not chosen:
        click.echo("there is no cluster" if every else f"there is no cluster {name}")
    registry.tidy()
