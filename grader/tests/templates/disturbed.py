"""A run of a training script that any of whose lives may be disturbed (jobs/disturbed.py)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader.harness.launch import run_life
from grader.harness.launcher import Launcher, Limits
from grader.harness.run import Process

JOB = Path(__file__).parent / "jobs" / "disturbed.py"


@dataclass
class Life:
    process: Process

    @property
    def status(self) -> int:
        return self.process.status

    @property
    def text(self) -> str:
        return self.process.text(characters=1 << 20)

    @property
    def happened(self) -> bool:
        return bool(self.process.all("happened"))

    @property
    def events(self) -> list[str]:
        """File-system events in the watched directory, in order."""
        names: list[str] = self.process.first("events")["names"]
        return names


class Run:
    """A script and its arguments, in a folder of its own; `{top}` in an argument is that folder."""

    def __init__(self, launcher: Launcher, top: Path, script: Path, *args: object):
        self.launcher, self.top, self.number = launcher, top, 0
        self.checkpoints = top / "ck"
        self.script = [str(script), *(str(a).format(top=top) for a in args)]
        top.mkdir(parents=True, exist_ok=True)

    def live(self, at: str = "", do: str = "kill") -> Life:
        self.number += 1
        folder = self.top / f"life{self.number}"
        argv = ["--watch", str(self.checkpoints)] + (["--at", at, "--do", do] if at else [])
        limits = Limits(wall=120)
        result = run_life(
            self.launcher, folder, JOB, [*argv, "--", *self.script], None, limits, [self.top]
        )
        return Life(Process(folder, None, result))

    def files(self) -> dict[str, Any]:
        """Names in the checkpoint directory, with their sizes."""
        return {p.name: p.stat().st_size for p in sorted(self.checkpoints.iterdir())}
