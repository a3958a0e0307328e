"""`grade audit`: does somebody's own training job survive?"""

from __future__ import annotations

import random
import re
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from grader.audit import data, page, report, reproduce
from grader.audit.lives import Commands, Runner
from grader.audit.session import Audit, CannotJudge
from grader.errors import UsageError
from grader.harness import scratch
from grader.harness.launcher import Lost
from grader.interrupt import Interrupted
from grader.report.logs import escaped
from grader.report.output import Target
from grader.report.terminal import console

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


class Duration(click.ParamType):  # type: ignore[type-arg]  # click 8.1's has none
    """`90`, `90s`, `10m` or `1.5h`, in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value)
        if match and float(match[1]) > 0:
            return float(match[1]) * UNITS[match[2]]
        return self.fail(f"{value!r} isn't a time; examples: 90s, 10m, 1h", param, ctx)


@click.command("audit", context_settings={"ignore_unknown_options": False})
@click.option(
    "--resume-command",
    metavar="COMMAND",
    help="The command that resumes the job, if it's another one.",
)
@click.option(
    "--setup", metavar="COMMAND", help="A command to run before the first start of each run."
)
@click.option(
    "--budget",
    type=Duration(),
    default="10m",
    show_default=True,
    help="Time for everything: 90s, 10m, 1h. It limits how many faults are tried.",
)
@click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON.")
@click.option("--junit", "junit_file", metavar="FILE", help="Write the result as JUnit XML.")
@click.option("--html", "html_file", metavar="FILE", help="Write the result as one HTML page.")
@click.option("--markdown", "markdown_file", metavar="FILE", help="Write a summary as Markdown.")
@click.option(
    "--reproducer",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="For each finding, write a shell script that reproduces it into DIR.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["silent", "any", "never"]),
    default="any",
    show_default=True,
    help="Which findings make the exit status 1.",
)
@click.option(
    "--elastic",
    metavar="N",
    type=click.IntRange(1, 1024),
    help="Also resume on N ranks (torchrun, accelerate launch).",
)
@click.option("--only", metavar="TEXT", help="Try only faults with TEXT in their name.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31),
    help="Seed for choosing faults; without it, each audit chooses others.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    resume_command: str | None,
    setup: str | None,
    budget: float,
    json_file: str | None,
    junit_file: str | None,
    html_file: str | None,
    markdown_file: str | None,
    reproducer: Path | None,
    fail_on: str,
    elastic: int | None,
    only: str | None,
    seed: int | None,
    command: tuple[str, ...],
) -> None:
    """Kill your own training job, resume it, and say what it lost.

    grade audit -- python train.py --out_dir {out}

    {out} stands for the folder where your job writes its checkpoints; each run gets a new one. Your
    script isn't changed. Exit status: 0 nothing found, 1 findings, 2 wrong usage, 3 nothing could
    be judged.
    """
    words = list(command)
    commands = Commands.of(words, resume_command, setup, elastic or 0)
    seed = random.SystemRandom().randrange(10_000) if seed is None else seed
    out = console()
    with ExitStack() as stack:
        targets = {}
        wanted = {data.json_text: json_file, data.junit_text: junit_file, page.page: html_file}
        for text, file in {**wanted, data.markdown: markdown_file}.items():
            if file:
                targets[text] = Target(Path(file))
                stack.callback(targets[text].close)
        if reproducer:
            _make(reproducer)
        folder = scratch.make()
        stack.callback(scratch.remove, folder)
        runner = Runner(commands, folder)
        stack.callback(runner.close)
        audit = Audit(runner, budget, seed, _progress(out), elastic=elastic or 0)
        _announce(out, commands, folder, budget, seed)
        status = _run(out, audit, only or "")
        report.show(out, audit)
        for text, target in targets.items():
            target.write(text(audit, words))
        if reproducer and audit.findings:
            for path in reproduce.write(audit, words, reproducer):
                out.print(f"script   {escaped(str(path))}", markup=False)
    sys.exit(report.exit_status(audit, fail_on) if status is None else status)


def _make(folder: Path) -> None:
    """Before anything runs: what can't be written is known at once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"--reproducer {folder}: {e.strerror}") from e


def _run(out: Console, audit: Audit, only: str) -> int | None:
    """Run it; return the exit status if that doesn't follow from the findings."""
    try:
        audit.run(lambda fault: only in fault.title)
        if only and not audit.outcomes and not audit.untried:
            click.echo(f"grade: no fault has {escaped(only)!r} in its name", err=True)
    except CannotJudge as e:
        click.echo(f"grade: {escaped(str(e))}", err=True)
        for line in e.printed:
            click.echo(f"  | {escaped(line)}", err=True)
        return 3
    except Lost as e:
        click.echo(f"grade: {escaped(str(e))}", err=True)
        return 3
    except Interrupted as e:
        audit.runner.close()
        out.print("interrupted: this is what is known so far")
        return 128 + e.number
    return None


def _announce(out: Console, commands: Commands, folder: Path, budget: float, seed: int) -> None:
    out.print(f"audit    {escaped(shlex.join(commands.start))}", markup=False)
    if commands.resume:
        out.print(f"resume   {escaped(shlex.join(commands.resume))}", markup=False)
    if commands.setup:
        out.print(f"setup    {escaped(shlex.join(commands.setup))}", markup=False)
    out.print(
        f"This runs the command many times, kills it, and ends after {budget:.0f} s at most. "
        f"{{out}} is below {folder}. Seed {seed}.",
        markup=False,
    )


def _progress(out: Console) -> Any:
    def say(text: str) -> None:
        out.print(f"  {escaped(text)}", markup=False, style="dim")

    return say
