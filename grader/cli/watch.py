"""`grade watch`: grade again at each save. What it does then: grader/watch."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from grader.cli.arguments import FileName, exercises_in
from grader.cli.state import PROGRESS, STATE
from grader.course import catalog, selection
from grader.course.catalog import Exercise
from grader.harness import sandbox


@click.command("watch")
@click.argument("name", required=False, metavar="[EXERCISE | TASK | TASK/CHECK]")
@click.option("--submission", type=FileName(), metavar="DIR", help="Watch this directory.")
@click.option(
    "--poll/--no-poll",
    default=None,
    help="Look for changes three times a second (the default where no events arrive, as on NFS).",
)
@click.option("--jobs", type=click.IntRange(1, 64), metavar="N", help="Processes at a time.")
@click.option("--launcher", type=click.Choice(["fork", "plain"]), help="How processes start.")
@click.option(
    "--sandbox",
    "policy",
    type=click.Choice(sandbox.POLICIES),
    default="auto",
    help="As for grading.",
)
@click.option(
    "--cluster",
    type=click.Choice(["slurm", "stand-in"]),
    help="ex04: a real Slurm on this machine, or a stand-in.",
)
@click.option("--serve", is_flag=True, help="Show the results in a browser, too (loopback only).")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="... at this port.")
def command(
    name: str | None,
    submission: Path | None,
    poll: bool | None,
    jobs: int | None,
    launcher: str | None,
    policy: str,
    cluster: str | None,
    serve: bool,
    port: int | None,
) -> None:
    """Grade again whenever you save, beginning with the task that you work on.

    Without a name, it takes the exercise that you graded last.
    """
    from grader import collection
    from grader.slurm.target import Where
    from grader.watch.served import Served
    from grader.watch.session import Session

    (selected,) = selection.parse([name or _to_work_on(submission).id])
    selection.choose(collection.collect(selected.exercise), selected.checks)
    with contextlib.ExitStack() as stack:
        served = None
        if serve or port:
            served = stack.enter_context(contextlib.closing(Served(port or 0)))
        Session(
            selected,
            submission,
            PROGRESS,
            folder=STATE,
            sandbox=sandbox.choose(policy),
            launcher=launcher,
            jobs=jobs,
            poll=poll,
            cluster=Where(cluster) if cluster else None,
            served=served,
        ).run()


def _to_work_on(submission: Path | None) -> Exercise:
    if submission:
        return exercises_in(submission)[0]
    last = PROGRESS.last_worked_on(catalog.exercises().values())
    if PROGRESS.first_not_passed(last, last.starter):
        return last
    return catalog.after(last) or last
