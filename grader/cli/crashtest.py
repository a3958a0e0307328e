"""`grade crashtest`: any save and load, under every crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from grader.course.catalog import ROOT
from grader.crash.enumeration import TITLES
from grader.errors import UsageError

PATIENCE = 900  # s for everything


@click.command("crashtest")
@click.option(
    "--save",
    required=True,
    metavar="MODULE:FUNCTION",
    help="save(directory, state); when it returns, the state is durable.",
)
@click.option(
    "--load",
    required=True,
    metavar="MODULE:FUNCTION",
    help="load(directory) -> state; None if there is none.",
)
@click.option(
    "--state",
    metavar="MODULE:FUNCTION",
    help="state(n) -> the state of save n = 1, 2 ... (a small dict of tensors and numbers).",
)
@click.option(
    "--saves",
    type=click.IntRange(1, 20),
    default=3,
    show_default=True,
    help="Saves, one after another, into one directory.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Choice(list(TITLES)),
    help="Only crashes of this kind (repeatable).",
)
@click.option(
    "--strict-first",
    is_flag=True,
    help="Before the first save has returned, load must return None: raising isn't allowed.",
)
@click.option(
    "--errors/--no-errors",
    default=True,
    help="Also refuse each write and sync once (disk full, I/O error).",
)
@click.option(
    "--flips/--no-flips", default=True, help="Also flip bits in the files of the newest checkpoint."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31),
    default=0,
    show_default=True,
    help="Draws the bits that are flipped.",
)
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Loads at a time."
)
@click.option(
    "--memory",
    type=click.IntRange(1, 1 << 20),
    default=16,
    show_default=True,
    metavar="GiB",
    help="Memory that one process may use.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(1, 3600),
    default=60,
    show_default=True,
    metavar="S",
    help="Seconds that the saves of one run may take.",
)
@click.option(
    "--json", "json_file", metavar="FILE", help="Write the result as JSON; - for standard output."
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False),
    metavar="FILE.png",
    help="Draw the smallest failing state.",
)
def command(
    save: str,
    load: str,
    state: str | None,
    saves: int,
    models: tuple[str, ...],
    strict_first: bool,
    errors: bool,
    flips: bool,
    seed: int,
    jobs: int,
    memory: int,
    time_limit: float,
    json_file: str | None,
    picture: str | None,
) -> None:
    """Test your save and load against every disk state that a crash may leave.

    Functions are named as package.module:function or file.py:function. Exit status: 0 every state
    kept the promise, 1 some broke it, 2 wrong usage (or your save fails on a healthy disk), 3 no
    verdict (not on Linux, for example).
    """
    for name in filter(None, (save, load, state)):
        where, colon, what = name.rpartition(":")
        if not (where and colon and what):
            raise UsageError(
                f"{name}: name a function as package.module:function or file.py:function"
            )
    for file in filter(None, (json_file if json_file != "-" else None, picture)):
        if not Path(file).resolve().parent.is_dir():
            raise UsageError(f"{file}: there is no directory {Path(file).resolve().parent}")
    with tempfile.TemporaryDirectory(prefix="g-") as made:
        here = Path(made)
        plan = {
            "save": save,
            "load": load,
            "state": state,
            "saves": saves,
            "models": list(models),
            "fresh": "none" if strict_first else "any",
            "errors": errors,
            "flips": flips,
            "seed": seed,
            "jobs": jobs,
            "memory": memory,
            "seconds": time_limit,
            "cwd": os.getcwd(),
            "result": str(here / "result.json"),
            "picture": picture and str(Path(picture).resolve()),
        }
        (here / "plan.json").write_text(json.dumps(plan))
        result = _work(here)
    _show(result, json_file)
    sys.exit(result["status"])


def _work(here: Path) -> dict[str, Any]:
    """Run it in its own process and session, and leave nothing behind."""
    env = os.environ | {
        "TMPDIR": str(here),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "grader.crash.worker", str(here / "plan.json")],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
    )
    try:
        status = f"{process.wait(PATIENCE)}"
    except subprocess.TimeoutExpired:
        status = "it took too long"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    try:
        result: dict[str, Any] = json.loads((here / "result.json").read_text())
        return result
    except (OSError, ValueError):
        return {"status": 3, "why": f"the test's process ended without a result ({status})"}


def _show(result: dict[str, Any], json_file: str | None) -> None:
    if why := result.get("why"):
        click.echo(f"grade: {why}", err=True)
    if result["status"] == 3:
        click.echo("no verdict", err=json_file == "-")
    for line in result.get("text", []):
        click.echo(line, err=json_file == "-")
    if json_file and "report" in result:
        text = json.dumps(result["report"], indent=1) + "\n"
        if json_file == "-":
            click.echo(text, nl=False)
        else:
            Path(json_file).write_text(text)
