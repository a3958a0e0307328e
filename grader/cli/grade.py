"""`grade ex01`: grades submissions, and writes the reports."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grader.cli.arguments import FileName, exercises_in, parsed, submission_of
from grader.cli.state import PROGRESS, STATE
from grader.course import selection, starters
from grader.course.catalog import Exercise
from grader.course.submissions import Submission
from grader.errors import UsageError
from grader.harness import sandbox
from grader.verdicts import ExerciseResult, TaskResult

if TYPE_CHECKING:  # a command loads what it needs when it runs
    from grader.slurm.target import Where


@click.command("checks", hidden=True)
@click.argument("names", nargs=-1, metavar="[EXERCISE | TASK | TASK/CHECK]...")
@click.option(
    "--task", "task_names", multiple=True, metavar="N", help="Grade only this task (repeatable)."
)
@click.option(
    "--check",
    "check_names",
    multiple=True,
    metavar="NAME",
    help="Run only this check (repeatable); a part of its name is enough. ex01.3/NAME means the "
    "same. `grade show ex01.3` lists them.",
)
@click.option(
    "--submission",
    type=FileName(),
    metavar="DIR",
    help="Grade this directory: laid out like starter/, or holding ex01...",
)
@click.option("--solution", is_flag=True, help="Grade the reference solutions.")
@click.option(
    "--json",
    "json_file",
    type=FileName(),
    metavar="FILE",
    help="Write the results as JSON; - for standard output.",
)
@click.option(
    "--junit",
    "junit_file",
    type=FileName(),
    metavar="FILE",
    help="Write the results as JUnit XML; - for standard output.",
)
@click.option(
    "--html",
    "html_file",
    type=FileName(),
    metavar="FILE",
    help="Write the results as one page, with timelines of the runs that failed; - for standard "
    "output.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Processes at a time (the number of cores).",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31),
    metavar="N",
    help="Draw model, data and faults from this seed (a new one each time).",
)
@click.option(
    "--fault", metavar="FAULT", help="Inject only this fault, as a message prints it: kill@12."
)
@click.option(
    "--launcher",
    type=click.Choice(["fork", "plain"]),
    help="How processes start: forked from a warm server, or plainly (slower, same verdicts).",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(5, 3600),
    metavar="S",
    help="Seconds that one process may take (60).",
)
@click.option(
    "--grading-limit",
    type=click.FloatRange(5, 86400),
    metavar="S",
    help="Seconds that the grading of one exercise may take (1800).",
)
@click.option(
    "--sandbox",
    "policy",
    type=click.Choice(sandbox.POLICIES),
    default="auto",
    help="What student code may see and touch: auto takes the best sandbox that this machine "
    "has, require fails without one, off is for submissions that you trust.",
)
@click.option(
    "--cluster",
    type=click.Choice(["slurm", "stand-in", "site"]),
    help="ex04: a real Slurm on this machine, a stand-in, or the site's (on a login node).",
)
@click.option("-s", "--stream", is_flag=True, help="Show what your code prints, as it prints it.")
@click.option("--partition", metavar="P", help="... on the site: the partition.")
@click.option("--account", metavar="A", help="... on the site: the account.")
def command(
    names: tuple[str, ...],
    task_names: tuple[str, ...],
    check_names: tuple[str, ...],
    submission: Path | None,
    solution: bool,
    json_file: Path | None,
    junit_file: Path | None,
    html_file: Path | None,
    jobs: int | None,
    seed: int | None,
    fault: str | None,
    launcher: str | None,
    time_limit: float | None,
    grading_limit: float | None,
    policy: str,
    cluster: str | None,
    stream: bool,
    partition: str | None,
    account: str | None,
) -> None:
    """Grade exercises (what `grade` does without a command)."""
    from grader import collection, engine
    from grader.harness.faults import parse_schedule
    from grader.harness.launcher import Limits, choose
    from grader.report import output, terminal

    chosen = selection.parse(
        names or [e.id for e in exercises_in(submission)], task_names, check_names
    )
    faults = parsed(parse_schedule, fault) if fault else None
    where = _where(cluster, partition, account)
    submissions = [submission_of(each.exercise, submission, solution) for each in chosen]
    for each in chosen:
        collection.select(each)  # an error before any grading
    limits = Limits.within(time_limit) if time_limit else Limits()
    confined = sandbox.choose(policy)
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    out = terminal.console()
    if "-" in (str(json_file), str(junit_file), str(html_file)):
        out.file, out.quiet = sys.stderr, True
    results: list[ExerciseResult] = []
    untouched: list[Exercise] = []
    with _reports(json_file, junit_file, html_file) as write:
        for each, work in zip(chosen, submissions, strict=True):
            exercise = each.exercise
            if starters.untouched(exercise, work):
                untouched.append(exercise)
            # a launcher next to which student code has run serves no other submission
            launched = choose(launcher, confined.kind)
            if hasattr(launched, "start"):
                launched.start()  # torch loads while the rest is set up
            # a student's own work; a part of a task or of its faults proves no task
            remembered = not solution and not each.checks and faults is None
            with contextlib.closing(launched), terminal.Progress(out, exercise) as shown:
                grading = engine.Grading(
                    exercise,
                    work,
                    launched,
                    sandbox=confined,
                    seconds=grading_limit,
                    seed=seed,
                    jobs=jobs,
                    tasks=each.numbers,
                    only=each.checks,
                    faults=faults,
                    limits=limits,
                    logs=STATE / "logs" / work.slug,
                    cluster=where,
                    keep_history=html_file is not None,
                    on_change=shown.update,
                )
                if stream:
                    grading.bench.show = shown.line

                def on_task(
                    result: TaskResult,
                    shown: terminal.Progress = shown,
                    work: Submission = work,
                    remembered: bool = remembered,
                ) -> None:
                    shown.show(result)
                    if remembered:
                        PROGRESS.remember(work, result, seed)

                try:
                    results.append(grading.start().result(on_task))
                finally:
                    grading.close()
        terminal.show_summary(out, results, untouched)
        write(results)
    sys.exit(output.exit_code(results))


def _where(cluster: str | None, partition: str | None, account: str | None) -> Where | None:
    from grader.slurm.target import Where

    if (partition or account) and cluster != "site":
        raise UsageError("--partition and --account go with --cluster site")
    return Where(cluster, partition, account) if cluster else None


@contextlib.contextmanager
def _reports(
    json_file: Path | None, junit_file: Path | None, html_file: Path | None
) -> Iterator[Callable[[list[ExerciseResult]], None]]:
    """Opens the files before the grading, so that errors show early; gives what writes them."""
    from grader import explain
    from grader.report import html, output

    def page(results: list[ExerciseResult]) -> str:
        return html.page(results, explain.explanations())

    with contextlib.ExitStack() as stack:
        targets = [
            (text, stack.enter_context(contextlib.closing(output.Target(file))))
            for text, file in (
                (output.json_text, json_file),
                (output.junit_text, junit_file),
                (page, html_file),
            )
            if file
        ]

        def write(results: list[ExerciseResult]) -> None:
            for text, target in targets:
                target.write(text(results))

        yield write
