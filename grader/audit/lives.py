"""Runs one life of the audited command: guarded, limited, with the probe inside."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from grader.audit import history
from grader.audit.history import Life
from grader.errors import UsageError
from grader.harness import launcher, scratch
from grader.harness.launcher import Limits

HERE = Path(__file__).resolve().parent
INSIDE = Path(launcher.__file__).resolve().parent / "inside"
OUT = "{out}"
TAIL = 64 << 10  # bytes of the output that are read
LINES = 12
GIB = 1 << 30


@dataclass(frozen=True)
class Commands:
    """The command lines of a job, with {out} where a run's folder goes."""

    start: list[str]
    resume: list[str] | None = None
    setup: list[str] | None = None

    @classmethod
    def of(cls, start: list[str], resume: str | None, setup: str | None) -> Commands:
        if not any(OUT in word for word in start):
            raise UsageError(
                "the command doesn't say {out}: put it where the folder for checkpoints goes, such "
                "as --out_dir {out}; each run gets a new one there. If the job writes into its "
                "working directory: sh -c 'cd {out} && exec python /path/to/train.py'"
            )
        return cls(start, _words(resume, "--resume-command"), _words(setup, "--setup"))


def _words(command: str | None, option: str) -> list[str] | None:
    if command is None:
        return None
    try:
        words = shlex.split(command)
    except ValueError as e:
        raise UsageError(f"{option}: {e}") from e
    if not words:
        raise UsageError(f"{option} is empty")
    return words


def default_limits() -> Limits:
    return Limits(
        wall=float("inf"),
        cpu=float("inf"),
        memory=int(psutil.virtual_memory().total * 0.9),
        output=256 << 20,
        disk=20 * GIB,
        events=4 * GIB,
    )


@dataclass
class Runner:
    """Runs lives below one scratch folder."""

    commands: Commands
    folder: Path
    limits: Limits = field(default_factory=default_limits)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def __post_init__(self) -> None:
        self.launcher = launcher.Plain()
        self._numbers = itertools.count(1)

    def new_run(self, seconds: float) -> Path:
        """A fresh folder for a run's output, set up as --setup says."""
        out = self.folder / f"run-{next(self._numbers)}" / "out"
        out.mkdir(parents=True)
        if self.commands.setup:
            life = self._live(self.commands.setup, out, None, seconds)
            if life.status != 0:
                last = life.tail[-1] if life.tail else f"exit status {life.status}"
                raise UsageError(f"--setup failed: {last}")
        return out

    def start(self, out: Path, seconds: float, fault: dict[str, Any] | None = None) -> Life:
        return self._live(self.commands.start, out, fault, seconds)

    def resume(self, out: Path, seconds: float, fault: dict[str, Any] | None = None) -> Life:
        return self._live(self.commands.resume or self.commands.start, out, fault, seconds)

    def close(self) -> None:
        self.launcher.close()

    def _live(
        self, command: list[str], out: Path, fault: dict[str, Any] | None, seconds: float
    ) -> Life:
        folder = out.parent / f"life-{next(self._numbers)}"
        records = folder / "records"
        records.mkdir(parents=True)
        spec = folder / "probe.json"
        spec.write_text(
            json.dumps(
                {
                    "records": str(records),
                    "out": str(out),
                    "fault": fault,
                    **{name: str(INSIDE / f"{name}.py") for name in ("digest", "fsevents")},
                }
            )
        )
        words = [word.replace(OUT, str(out)) for word in command]
        job = folder / "job.json"
        job.write_text(json.dumps(self._job(folder, words, out, spec, seconds)))
        began = time.monotonic()
        self.launcher.run([job], seconds + 60)
        result = _result(folder)
        life = Life(
            ranks=history.read(records),
            status=result.get("status"),
            ended=result.get("ended"),
            seconds=time.monotonic() - began,
            tail=tail(folder / "output"),
        )
        life.trouble = next((p.trouble for p in life.ranks.values() if p.trouble), None)
        return life

    def _job(
        self, folder: Path, words: list[str], out: Path, spec: Path, seconds: float
    ) -> dict[str, Any]:
        paths = [str(HERE / "boot"), self.environment.get("PYTHONPATH", "")]
        return {
            "path": str(folder / "job.json"),
            "child": str(HERE / "enter.py"),
            "env": launcher.environment(),  # of the process that becomes the command
            "command": words,
            "command_env": dict(self.environment)
            | {"GRADE_AUDIT": str(spec), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
            | {"TMPDIR": str(_made(out.parent / "tmp"))},
            "cwd": os.getcwd(),
            "limits": asdict(self.limits) | {"wall": seconds},
            "may_write": [str(out.parent)],
            "sandbox": {"kind": "none", "network": False},
            **{name: str(folder / name) for name in ("output", "events", "result")},
        }


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _result(folder: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads((folder / "result").read_text())
    except (OSError, ValueError):
        log = tail(folder / "guardian.log")
        raise launcher.Lost(f"a life's guardian failed{': ' + log[-1] if log else ''}") from None
    return result


def tail(path: Path) -> list[str]:
    """The last lines of what a life printed."""
    try:
        text = scratch.read(path, TAIL, tail=True).decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-LINES:]
