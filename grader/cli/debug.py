"""`grade debug`: a check's failing life on this terminal. How: debug_life.py."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import click

from grader.cli.arguments import FileName, submission_of
from grader.course import selection
from grader.errors import UsageError


@click.command("debug")
@click.argument("name", metavar="TASK/CHECK")
@click.option("--life", metavar="RUN.N", help="Life N of this run, as a message names it.")
@click.option("--rank", type=click.IntRange(0, 63), metavar="N", help="This rank of the life.")
@click.option("--seed", type=click.IntRange(0, 2**31), metavar="N", help="The grading's seed.")
@click.option("--debugpy", is_flag=True, help="Wait for an IDE's debugger, at a printed address.")
@click.option("--submission", type=FileName(), metavar="DIR", help="Check the work in this folder.")
@click.option("--solution", is_flag=True, help="Check the reference solution.")
def command(
    name: str,
    life: str | None,
    rank: int | None,
    seed: int | None,
    debugpy: bool,
    submission: Path | None,
    solution: bool,
) -> None:
    """Run a check's failing life on this terminal: breakpoint(), pdb and prints work.

    The check runs as in a grading up to that life. The life finds the directory as it was, and
    gets the same fault. Without --life, it is the life that fails.
    """
    from grader import collection
    from grader.cli.debug_life import DEBUGPY, TERMINAL, debug

    (chosen,) = selection.parse([name])
    found = collection.select(chosen)
    if chosen.checks and len(found) > 1:
        raise UsageError(f"name one of {', '.join(check.slug for check in found)}")
    if not chosen.checks:
        raise UsageError(f"name a check: grade debug {name}/NAME; `grade show {name}` lists them")
    work = submission_of(chosen.exercise, submission, solution)
    if work.problem:
        raise UsageError(work.problem)
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    sys.exit(debug(found[0], work, seed, life, rank, DEBUGPY if debugpy else TERMINAL))
