"""The lab: what a check has in hand. It launches runs of one submission, under faults.

A check draws its numbers from `lab.draw`, which depends on the grading's seed and the check's name
alone: the same seed replays the same faults, whatever else runs beside it.
"""

from __future__ import annotations

import hashlib
import random
import re
import tempfile
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from grader.harness import scratch
from grader.harness.faults import Fault
from grader.harness.launcher import Limits, Lost
from grader.harness.life import run_life
from grader.harness.run import Life, Run
from grader.verdicts import NotSelected

WORKLOAD = Path(__file__).resolve().parent.parent / "workload"


class Bench:
    """What the labs of one grading share: the submission, the launcher, process slots, baselines."""

    def __init__(self, submission, launcher, seed: int, jobs: int, limits: Limits | None = None):
        self.submission, self.launcher, self.seed, self.jobs = submission, launcher, seed, jobs
        self.limits = limits or Limits()
        self.slots = threading.Semaphore(jobs)
        self.scratch = scratch.make()
        self._remove = weakref.finalize(self, scratch.remove, self.scratch)  # at the latest when Python ends
        self.lives_ended = 0
        self.cancelled = threading.Event()
        self._baselines: dict[tuple, Future] = {}
        self._lock = threading.Lock()

    def folder(self, suffix: str = "") -> Path:
        """A new one. Its name tells a life nothing: not what is checked, nor which fault is to come."""
        return Path(tempfile.mkdtemp(prefix="", suffix=suffix, dir=self.scratch))

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

    def cancel(self) -> None:
        """End every life now, and begin none: who waits for one gets Cancelled. The launcher is of no use then."""
        self.cancelled.set()
        self.launcher.close()

    def close(self) -> None:
        self._remove()


class Lab:
    """One check's view of the bench."""

    def __init__(self, bench: Bench, name: str, faults: tuple[Fault, ...] | None = None):
        self.bench, self.name, self.only = bench, name, faults
        self.seed = bench.seed
        self.draw = _random(f"{bench.seed} {name}")

    @property
    def shared(self) -> random.Random:
        """The same draws in every check of a grading: what runs have in common, so baselines are shared."""
        return _random(f"{self.seed}")

    def submitted(self) -> Path:
        """A fresh copy of the submission; what a life does to it harms no other."""
        return self.bench.submission.copy_to(self.bench.folder(suffix="-code") / "code")

    def launch(self, script: str, *argv: object, faults: tuple[Fault, ...] = (), before_relaunch=None) -> Run:
        """Run `script` of the workload through its lives: one per fault, and one that nothing disturbs.

        The run ends early when a life doesn't end as its fault says: what follows would prove nothing.
        """
        directory = self.bench.folder() / "checkpoints"
        directory.mkdir()
        lives: list[Life] = []
        for n, fault in enumerate([*faults, None]):
            if n and before_relaunch:
                before_relaunch(directory)
            lives.append(self._live(script, directory, argv, fault))
            if fault and not lives[-1].died_of_fault:
                break
        return Run(lives, tuple(faults), directory, command=f"{script} {' '.join(map(str, argv))}")

    def _live(self, script: str, directory: Path, argv, fault) -> Life:
        with self.bench.slots:
            if self.bench.cancelled.is_set():
                raise Cancelled
            code, where = self.submitted(), self.bench.folder()
            arguments = ["--checkpoint", str(code / self.bench.submission.module), "--directory", str(directory)]
            try:
                result = run_life(
                    self.bench.launcher, where, WORKLOAD / script, [*arguments, *map(str, argv)], fault, self.bench.limits,
                    may_write=[code, directory.parent],
                )  # fmt: skip
            except Lost:
                if not self.bench.cancelled.is_set():
                    raise
            if self.bench.cancelled.is_set():  # it didn't end of its own accord
                raise Cancelled
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
    """Nobody wants the check any more: the grading was interrupted."""


def course_paths(text: str, bench: Bench) -> str:
    """Replaces the paths of a life's copies by the student's own, and of scratch by what it stands for."""
    inside = re.escape(str(bench.scratch)) + r"/[^/\s\"']+"
    text = re.sub(inside + r"-code/code", lambda _: str(bench.submission.folder), text)
    text = re.sub(inside + r"/checkpoints", "CHECKPOINTS", text)
    return re.sub(inside + r"/t\b", "TMPDIR", text)
