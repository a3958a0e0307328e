"""Runs one life of the audited command: guarded, limited, with the probe inside."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from grader.audit import damage, enter, history
from grader.audit.history import Life
from grader.errors import UsageError
from grader.harness import launcher, scratch
from grader.harness.launch import for_guardian, result_of
from grader.harness.launcher import Launcher, Limits, Plain
from grader.harness.sandbox import NONE

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
    elsewhere: list[str] | None = None  # resumes on another number of ranks

    @classmethod
    def of(
        cls, start: list[str], resume: str | None, setup: str | None, elastic: int = 0
    ) -> Commands:
        if not any(OUT in word for word in start):
            raise UsageError(
                "the command doesn't contain {out}: put it where the folder for checkpoints goes, "
                "such as --out_dir {out}; each run gets a new one there. If the job writes into "
                "its working directory: sh -c 'cd {out} && exec python /path/to/train.py'"
            )
        again = _words(resume, "--resume-command")
        if again and not any(OUT in word for word in again):
            raise UsageError(
                "--resume-command doesn't contain {out}: put it where the folder goes, so that the "
                "relaunch finds the checkpoints"
            )
        elsewhere = on_ranks(again or start, elastic) if elastic else None
        return cls(start, again, _words(setup, "--setup"), elsewhere)


# options of torchrun and accelerate launch
RANKS = re.compile(r"(--nproc[-_]per[-_]node|--num[-_]processes)(=(.*))?")


def on_ranks(words: list[str], number: int) -> list[str]:
    """The command line with another number of ranks."""
    for n, word in enumerate(words):
        if match := RANKS.fullmatch(word):
            if match[2]:
                return [*words[:n], f"{match[1]}={number}", *words[n + 1 :]]
            return [*words[: n + 1], str(number), *words[n + 2 :]]
    raise UsageError(
        "--elastic: the command names no number of ranks; it needs --nproc-per-node N (torchrun) "
        "or --num_processes N (accelerate launch)"
    )


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
    launcher: Launcher = field(default_factory=Plain)
    every: int = 1  # steps: where digests cost too much, only some are taken

    def __post_init__(self) -> None:
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

    def resume_elsewhere(self, out: Path, seconds: float) -> Life:
        assert self.commands.elsewhere
        return self._live(self.commands.elsewhere, out, None, seconds)

    def to_record(self, out: Path) -> Callable[[], None]:
        """What a forked process does to become the job, with marks for the recorder."""
        job = self._prepare(self.commands.start, out, None, 0, recorded=True)
        return lambda: enter.become(job)

    def close(self) -> None:
        self.launcher.close()

    def _live(
        self, command: list[str], out: Path, fault: dict[str, Any] | None, seconds: float
    ) -> Life:
        job = self._prepare(command, out, fault, seconds)
        folder = Path(job["path"]).parent
        began = time.monotonic()
        self.launcher.run([Path(job["path"])], seconds + 60)
        result = result_of(folder)
        first, *later = history.read(folder / "records")
        life = Life(
            ranks=first,
            status=result["status"],
            ended=result["ended"],
            seconds=time.monotonic() - began,
            tail=tail(folder / "output"),
            began=began,
            waited=result.get("waited", 0.0),
            left=damage.listing(out, time.monotonic() - time.time()),
            # a launcher's status is that of its last start
            later=[Life(ranks, result["status"], began=began) for ranks in later],
        )
        everyone = [p for ranks in (first, *later) for p in ranks.values()]
        life.trouble = next((p.trouble for p in everyone if p.trouble), None)
        return life

    def _prepare(
        self,
        command: list[str],
        out: Path,
        fault: dict[str, Any] | None,
        seconds: float,
        recorded: bool = False,
    ) -> dict[str, Any]:
        """A new folder for a life, with all that its processes are told."""
        folder = out.parent / f"life-{next(self._numbers)}"
        (folder / "records").mkdir(parents=True)
        spec = folder / "probe.json"
        told: dict[str, Any] = {"records": str(folder / "records"), "out": str(out), "fault": fault}
        told |= {"every": self.every, "recorded": recorded}
        told |= {name: str(INSIDE / f"{name}.py") for name in ("digest", "fsevents")}
        spec.write_text(json.dumps(told))
        words = [word.replace(OUT, str(out)) for word in command]
        job = self._job(folder, words, out, spec, seconds)
        if fault and "ends_in" in fault:
            job["command_env"]["SLURM_JOB_END_TIME"] = f"{time.time() + fault['ends_in']:.0f}"
        (folder / "job.json").write_text(json.dumps(job))
        return job

    def _job(
        self, folder: Path, words: list[str], out: Path, spec: Path, seconds: float
    ) -> dict[str, Any]:
        paths = [str(HERE / "boot"), self.environment.get("PYTHONPATH", "")]
        limits, sandbox = replace(self.limits, wall=seconds), {"kind": NONE, "network": False}
        job = for_guardian(folder, HERE / "enter.py", limits, [out.parent], sandbox)
        return job | {
            "env": launcher.environment(),  # of the process that becomes the command
            "command": words,
            "command_env": dict(self.environment)
            | {"GRADE_AUDIT": str(spec), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
            | {"TMPDIR": str(_made(out.parent / "tmp"))},
            "cwd": os.getcwd(),
        }


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def tail(path: Path) -> list[str]:
    """The last lines of what a life printed."""
    try:
        text = scratch.read(path, TAIL, tail=True).decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-LINES:]
