"""The lab: what a check has in hand. It launches runs of one submission, under faults.

A check draws its numbers from `lab.draw`, which depends on the grading's seed and the check's name
alone: the same seed replays the same faults, whatever else runs beside it.
"""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from grader.harness.faults import Fault
from grader.harness.launcher import Limits, run_life
from grader.harness.run import Life, Run
from grader.verdicts import NotSelected

WORKLOAD = Path(__file__).resolve().parent.parent / "workload"


class Bench:
    """What the labs of one grading share: the submission, the launcher, process slots, baselines."""

    def __init__(self, submission, launcher, seed: int, jobs: int, limits: Limits | None = None):
        self.submission, self.launcher, self.seed, self.jobs = submission, launcher, seed, jobs
        self.limits = limits or Limits()
        self.slots = threading.Semaphore(jobs)
        self.scratch = Path(tempfile.mkdtemp(prefix="grade-"))
        self.lives_ended = 0
        self._baselines: dict[tuple, Future] = {}
        self._lock = threading.Lock()
        self._number = 0

    def folder(self, name: str) -> Path:
        with self._lock:
            self._number += 1
            path = self.scratch / f"{self._number:04d}-{re.sub(r'[^a-z0-9]+', '-', name.lower())[:20]}"
        path.mkdir()
        return path

    def once(self, key: tuple, make: Callable[[], Run]) -> Run:
        """`make()`, run by whoever asks first; everybody gets its result."""
        with self._lock:
            mine = key not in self._baselines
            future = self._baselines.setdefault(key, Future())
        if mine:
            try:
                future.set_result(make())
            except BaseException as e:
                future.set_exception(e)
        return future.result()

    def close(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)


class Lab:
    """One check's view of the bench."""

    def __init__(self, bench: Bench, name: str, faults: tuple[Fault, ...] | None = None):
        self.bench, self.name, self.only = bench, name, faults
        self.seed = bench.seed
        self.draw = _random(f"{bench.seed} {name}")
        self.cancelled = False

    @property
    def shared(self) -> random.Random:
        """The same draws in every check of a grading: what runs have in common, so baselines are shared."""
        return _random(f"{self.seed}")

    def submitted(self, folder: Path) -> Path:
        """A fresh copy of the submission in `folder`; what a life does to it harms no other."""
        return self.bench.submission.copy_to(folder / "code")

    def launch(self, script: str, *argv: object, faults: tuple[Fault, ...] = (), before_relaunch=None) -> Run:
        """Run `script` of the workload through its lives: one per fault, and one that nothing disturbs.

        The run ends early when a life doesn't end as its fault says: what follows would prove nothing.
        """
        folder = self.bench.folder(f"{self.name} {script}")
        directory = folder / "checkpoints"
        directory.mkdir()
        lives: list[Life] = []
        for n, fault in enumerate([*faults, None]):
            if n and before_relaunch:
                before_relaunch(directory)
            lives.append(self._live(folder, n, script, directory, argv, fault))
            if fault and not lives[-1].died_of_fault:
                break
        return Run(lives, tuple(faults), directory, command=f"{script} {' '.join(map(str, argv))}")

    def _live(self, folder: Path, n: int, script: str, directory: Path, argv, fault) -> Life:
        code = self.submitted(folder / f"life-{n}-code")
        arguments = ["--checkpoint", str(code / self.bench.submission.module), "--directory", str(directory)]
        where = folder / f"life-{n}"
        with self.bench.slots:
            if self.cancelled:
                raise Cancelled
            result = run_life(
                self.bench.launcher, where, WORKLOAD / script, [*arguments, *map(str, argv)], fault, self.bench.limits
            )
        self.bench.lives_ended += 1
        life = Life(where, fault, result)
        life.events  # noqa: B018  (read now: what it reported outlives the bench's scratch)
        return life

    def undisturbed(self, script: str, *argv: object, again: int = 0) -> Run:
        """The baseline: the same script with the same arguments and no fault. Computed once a grading."""
        key = (self.bench.submission.key, script, *map(str, argv), again)
        return self.bench.once(key, lambda: self.launch(script, *argv))

    def schedules(self, *schedules: tuple[Fault, ...]) -> list[tuple[Fault, ...]]:
        """The fault schedules of a check, or the one that `grade --fault` asks for."""
        if self.only is None:
            return list(schedules)
        if self.only not in schedules and any(fault.in_save for fault in self.only):
            raise NotSelected  # a fault inside a save belongs to the check that printed it
        return [self.only]


def _random(text: str) -> random.Random:
    return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


class Cancelled(Exception):
    """The check isn't wanted any more: a task that it builds on has failed."""


def course_paths(text: str, bench: Bench) -> str:
    """Replaces the paths of a life's copies by the student's own, and of scratch by what it stands for."""
    scratch = re.escape(str(bench.scratch)) + r"/[^/\s\"']+"
    text = re.sub(scratch + r"/life-\d+-code/code", str(bench.submission.folder), text)
    return re.sub(scratch + r"/checkpoints", "CHECKPOINTS", text)
