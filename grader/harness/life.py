"""One life from its preparation to its result: whatever goes wrong on our side of it is Lost, never a traceback."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from grader.harness import scratch
from grader.harness.launcher import FIRST, HERE, THREADS, DiskFull, Limits, Lost

# s beyond a life's own limit, after which its guardian must have been killed or stopped
PATIENCE = 60

MIN_FREE = 16 << 20  # bytes on the disk of a life that failed, below which its failure proves nothing


def life_environment(own: str) -> dict[str, str]:
    """The environment of every life: one thread, no GPU, none of the caller's Python settings."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "GRADE_"))}
    return env | THREADS | {"CUDA_VISIBLE_DEVICES": "", "TMPDIR": own, "HOME": own, "PYTHONDONTWRITEBYTECODE": "1"}


def run_life(
    launcher, folder: Path, script: Path, argv: list[str], fault, limits: Limits, may_write=(),
    env: dict[str, str] | None = None, given: dict | None = None, start: str = FIRST,
) -> dict:  # fmt: skip
    """One life in `folder`, to its end; the guardian's result. Blocks. Lost, if there is none to rely on.

    given  what the script gets beside its arguments (watch.given): questions, salts
    start  as a run's first life, a relaunched one, or in a fresh interpreter (launcher.py)
    """
    try:
        job = _prepare(folder, script, argv, fault, limits, may_write, env or {}, given or {})
        launcher.run(job, limits.wall + PATIENCE, start)
        result = _result(folder)
        if result["status"] != 0 and shutil.disk_usage(folder).free < MIN_FREE:
            raise DiskFull(folder.parent.parent)
        return result
    except OSError as e:
        if DiskFull.says(e):
            raise DiskFull(folder.parent.parent)
        raise Lost(f"{type(e).__name__}: {e}")


def _prepare(
    folder: Path, script: Path, argv: list[str], fault, limits: Limits, may_write, env: dict[str, str], given: dict
) -> Path:
    own = folder / "t"  # short: sockets are made below it
    own.mkdir(parents=True)
    job = {
        "script": str(script),
        "argv": argv,
        "cwd": str(own),
        "env": life_environment(str(own)) | env,
        "fault": fault.to_json() if fault else None,
        "given": given,
        "limits": asdict(limits),
        "may_write": [str(folder), *map(str, may_write)],
        "child": str(HERE / "child.py"),
        **{name: str(folder / name) for name in ("stdout", "stderr", "events", "stack", "result")},
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    return path


def _result(folder: Path) -> dict:
    try:
        result = json.loads(scratch.read(folder / "result", 1 << 16))
        if {"status", "ended", "wall", "cpu", "left_behind"} <= result.keys() and isinstance(result["status"], int):
            return result
        why = "an incomplete result"
    except FileNotFoundError:
        why = "no result"
    except (OSError, ValueError, RecursionError, AttributeError) as e:
        why = f"no readable result ({type(e).__name__})"
    if not folder.is_dir():
        raise Lost("a life's folder vanished while it ran")
    if shutil.disk_usage(folder).free < MIN_FREE:
        raise DiskFull(folder.parent.parent)
    try:
        note = scratch.read(folder / "guardian.log", 500, tail=True).decode(errors="replace").strip()
    except OSError:
        note = ""
    raise Lost(f"a life ended with {why}{': ' + note if note else ''}")
