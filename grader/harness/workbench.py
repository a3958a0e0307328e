"""What the checks of one grading share: the submission, its scratch folder, process slots."""

from __future__ import annotations

import re
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from grader.course.submissions import Submission
from grader.harness import scratch
from grader.harness.launcher import Launcher, Limits
from grader.harness.salts import Salts
from grader.harness.sandbox import Sandbox
from grader.harness.sandbox import choose as choose_sandbox
from grader.verdicts import Attempt

T = TypeVar("T")


class Cancelled(Exception):
    """The grading was interrupted: nobody needs the check any more."""


class Bench:
    """What the labs of one grading share: submission, launcher, process slots, baselines."""

    def __init__(
        self,
        submission: Submission,
        launcher: Launcher,
        seed: int,
        jobs: int,
        limits: Limits | None = None,
        sandbox: Sandbox | None = None,
    ):
        self.submission, self.launcher, self.seed, self.jobs = submission, launcher, seed, jobs
        self.limits, self.sandbox = limits or Limits(), sandbox or choose_sandbox()
        self._slots, self._turn = threading.Semaphore(jobs), threading.Lock()
        self.scratch = scratch.make()
        # at the latest when Python exits
        self._remove = weakref.finalize(self, scratch.remove, self.scratch)
        self.salts = Salts(seed)
        self.lives_ended = 0
        # shows lines as lives print them: show(whose, line); None: nobody looks
        self.show: Callable[[str, str], None] | None = None
        # the cluster for runs that need one (grader/checks/ex04/cluster_runs.py)
        self.cluster: Any = None
        self.clusters: list[str] = []  # the kind that each run on one had
        self.attempts: list[Attempt] = []  # what submissions reached for
        self.cancelled = threading.Event()
        self._baselines: dict[tuple[object, ...], Future[Any]] = {}
        self._lock = threading.Lock()

    def folder(self, suffix: str = "") -> Path:
        """Make a new folder. Its name reveals neither the check nor a coming fault."""
        return Path(tempfile.mkdtemp(prefix="", suffix=suffix, dir=self.scratch))

    @contextmanager
    def slots(self, number: int) -> Iterator[None]:
        """Hold this many process slots; a group larger than the machine gets all of them."""
        number = min(number, self.jobs)
        with self._turn:  # else two groups that hold half of their slots wait for each other
            for _ in range(number):
                self._slots.acquire()
        try:
            yield
        finally:
            self._slots.release(number)

    def once(self, key: tuple[object, ...], make: Callable[[], T]) -> T:
        """`make()`, run by the first caller; all callers get its result."""
        with self._lock:
            mine = key not in self._baselines
            future: Future[T] = self._baselines.setdefault(key, Future())
        if mine:
            try:
                future.set_result(make())
            except BaseException as e:
                future.set_exception(e)
        return future.result()

    def cancel(self) -> None:
        """End every life and refuse new ones: callers that wait for one get Cancelled.

        The launcher can't be used afterwards.
        """
        self.cancelled.set()
        self.launcher.close()

    def close(self) -> None:
        self._remove()


def course_paths(text: str, bench: Bench) -> str:
    """Replace the paths of a life's copies by the student's, and scratch paths by their meaning."""
    inside = re.escape(str(bench.scratch)) + r"/[^/\s\"']+"
    text = re.sub(inside + scratch.CODE + r"/code", lambda _: bench.submission.shown, text)
    text = re.sub(inside + r"/(?:my )?checkpoints(?:/[0-9a-f]{8}\b)*", "CHECKPOINTS", text)
    text = re.sub(inside + r"/my job/checkpoints\b", "CHECKPOINTS", text)
    text = re.sub(inside + r"/my job\b", lambda _: bench.submission.shown, text)
    text = re.sub(inside + r"/given/train\b", "TRAIN", text)
    return re.sub(inside + r"/t\b", "TMPDIR", text)
