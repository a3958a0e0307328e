"""One life from its preparation to its result.

If something goes wrong on the grader's side, it raises Lost; no traceback reaches the user.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grader.harness import scratch
from grader.harness.faults import AnyFault
from grader.harness.launcher import FIRST, HERE, DiskFull, Launcher, Limits, Lost, environment
from grader.harness.sandbox import NONE, Sandbox

# s beyond a life's own limit; by then its guardian must have been killed or stopped
PATIENCE = 60

# bytes free on the disk; with less, a life's failure proves nothing
MIN_FREE = 16 << 20


def life_environment(own: str) -> dict[str, str]:
    """The environment of every life; `own` is the life's own folder."""
    # a life's uid may have no name on this machine, and libraries ask for one
    who = {"USER": "student", "LOGNAME": "student"}
    return environment() | who | {"TMPDIR": own, "HOME": own, "PYTHONDONTWRITEBYTECODE": "1"}


def run_life(
    launcher: Launcher, folder: Path, script: Path, argv: list[str], fault: AnyFault | None,
    limits: Limits, may_write: Sequence[Path] = (), *, given: dict[str, Any] | None = None,
    sandbox: dict[str, Any] | None = None, start: str = FIRST, reports: Sequence[Path] = (),
) -> dict[str, Any]:  # fmt: skip
    """Run one life of one process in `folder` to its end; return the guardian's result. Blocks.

    given    what the script gets beside its arguments (telemetry.given): questions, salts
    reports  files that processes report to which the script starts
    sandbox  from Sandbox.job; without it, none
    start    how the life starts (launcher.py): FIRST, RELAUNCHED or FRESH

    Raises Lost if there is no reliable result.
    """
    with errors_of_ours(folder):
        how: dict[str, Any] = {"given": given, "sandbox": sandbox, "reports": reports}
        job = prepare(folder, script, argv, fault, limits, may_write, **how)
        return run_prepared(launcher, [job], limits, start)[0]


@contextmanager
def errors_of_ours(folder: Path) -> Iterator[None]:
    """Turn an error of the operating system into Lost: it isn't the student's."""
    try:
        yield
    except OSError as e:
        raise (
            DiskFull(folder.parent) if DiskFull.says(e) else Lost(f"{type(e).__name__}: {e}")
        ) from e


def for_guardian(
    folder: Path, child: Path, limits: Limits, may_write: Sequence[Path], sandbox: dict[str, Any],
    others: Sequence[Path] = (), reports: Sequence[Path] = (),
) -> dict[str, Any]:  # fmt: skip
    """What a guardian has to know of a process: the job that it gets holds at least this.

    child    the script that becomes the process
    others   the folders of the other processes of its life
    reports  the files that show that it makes progress; without any, it may be silent
    """
    return {
        "path": str(folder / "job.json"),
        "child": str(child),
        "limits": asdict(limits),
        "others": [{name: str(other / name) for name in ("silence", "result")} for other in others],
        "reports": [*map(str, reports)],
        "may_write": [*map(str, may_write)],
        "sandbox": sandbox,
        **{name: str(folder / name) for name in ("output", "events", "stack", "silence", "result")},
    }


def prepare(
    folder: Path, script: Path, argv: list[str], fault: AnyFault | None, limits: Limits,
    may_write: Sequence[Path] = (), *, env: dict[str, str] | None = None,
    given: dict[str, Any] | None = None, sandbox: dict[str, Any] | None = None,
    others: Sequence[Path] = (), reports: Sequence[Path] = (),
) -> Path:  # fmt: skip
    """Write the job of one process into `folder`.

    others   the folders of the other processes of its life
    reports  files that processes report to which this one starts

    The process may write only to folder/t and `may_write`.
    """
    own = folder / "t"  # short: sockets are made below it
    sandbox = dict(sandbox or Sandbox(NONE).job())
    sandbox |= {"root": str(folder / "root"), "writable": [str(own), *map(str, may_write)]}
    child = HERE / "inside" / "child.py"
    reports = [folder / "events", *reports]
    job = for_guardian(folder, child, limits, [folder, *may_write], sandbox, others, reports)
    variables = list((life_environment(str(own)) | (env or {})).items())
    random.SystemRandom().shuffle(variables)  # real processes don't agree on the order, either
    job |= {
        "script": str(script),
        "argv": argv,
        "cwd": str(own),
        "env": dict(variables),
        "fault": fault.to_json() if fault else None,
        "given": given or {},
    }
    own.mkdir(parents=True)
    (folder / "root").mkdir()
    path = Path(job["path"])
    path.write_text(json.dumps(job))
    return path


def run_prepared(
    launcher: Launcher, jobs: list[Path], limits: Limits, start: str
) -> list[dict[str, Any]]:
    """Run the processes of one life to the end of all; return their guardians' results.

    Raises Lost if there is no reliable result.
    """
    launcher.run(jobs, limits.wall + PATIENCE, start)
    results = [result_of(job.parent) for job in jobs]
    for job, result in zip(jobs, results, strict=False):
        if result["status"] != 0 and shutil.disk_usage(job.parent).free < MIN_FREE:
            raise DiskFull(job.parent.parent)
    return results


def result_of(folder: Path) -> dict[str, Any]:
    """What the guardian of a life in `folder` says of it; raises Lost without a whole result."""
    try:
        result: dict[str, Any] = json.loads(scratch.read(folder / "result", 1 << 16))
        if {"status", "ended", "wall", "cpu", "left_behind"} <= result.keys() and isinstance(
            result["status"], int
        ):
            return result
        why = "an incomplete result"
    except FileNotFoundError:
        why = "no result"
    except (OSError, ValueError, RecursionError, AttributeError) as e:
        why = f"no readable result ({type(e).__name__})"
    if not folder.is_dir():
        raise Lost("a life's folder vanished while it ran")
    if shutil.disk_usage(folder).free < MIN_FREE:
        raise DiskFull(folder.parent)
    try:
        note = (
            scratch.read(folder / "guardian.log", 500, tail=True).decode(errors="replace").strip()
        )
    except OSError:
        note = ""
    raise Lost(f"a life ended with {why}{': ' + note if note else ''}")
