"""One grading, and the launcher that is kept warm for the next one."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path

from grader import engine
from grader.course.catalog import Exercise
from grader.course.submissions import Submission
from grader.harness import launcher as launchers
from grader.harness.sandbox import Sandbox
from grader.slurm.target import Where
from grader.verdicts import TaskResult

Launcher = launchers.ForkServer | launchers.Plain


class Warm:
    """The next grading's launcher, which loads torch while the student types.

    A launcher next to which student code has run serves no other submission. Every save is another
    submission, and a cancelled grading ends its launcher, so each grading gets a new one.
    """

    def __init__(self, make: Callable[[], Launcher]):
        self._make = make
        self._next: Launcher | None = None

    def prepare(self) -> None:
        if self._next is None:
            self._next = self._make()
            if isinstance(self._next, launchers.ForkServer):
                self._next.start()

    def take(self) -> Launcher:
        self.prepare()
        taken, self._next = self._next, None
        assert taken
        return taken

    def close(self) -> None:
        if self._next:
            self._next.close()


@dataclass(frozen=True)
class Plan:
    """What a turn grades."""

    tasks: tuple[int, ...] | None = None  # their numbers; None: all
    checks: tuple[str, ...] = ()  # names or parts of names; empty: all
    in_full: bool = False  # show every message, not only the first
    already: tuple[int, ...] = ()  # tasks that have just passed, with the same files


class Turn:
    """One grading in the background. `cancel` and `wait` may come at any time."""

    def __init__(
        self,
        exercise: Exercise,
        work: Submission,
        plan: Plan,
        launcher: Launcher,
        *,
        sandbox: Sandbox,
        logs: Path,
        jobs: int | None,
        cluster: Where | None = None,
        keep_history: bool = False,
        on_change: Callable[[engine.Grading], None],
        on_task: Callable[[Turn, TaskResult], None],
        on_end: Callable[[Turn, Exception | None], None],
    ):
        self.exercise, self.work, self.plan = exercise, work, plan
        self.seed = random.SystemRandom().randrange(2**31)
        self.results: list[TaskResult] = []
        self._cancelled = False
        self._launcher, self._on_task, self._on_end = launcher, on_task, on_end
        self.grading = engine.Grading(
            exercise,
            work,
            launcher,
            seed=self.seed,
            jobs=jobs,
            tasks=list(plan.tasks) if plan.tasks else None,
            only=plan.checks,
            logs=logs,
            sandbox=sandbox,
            cluster=cluster,
            keep_history=keep_history,
            on_change=on_change,
        )
        self._threads = [threading.Thread(target=self._run, daemon=True)]
        self._threads[0].start()

    def _run(self) -> None:
        error = None
        try:
            self.grading.start().result(self._show)
        except CancelledError:
            pass
        except Exception as e:
            error = e
        finally:
            # neither may keep the other from its end
            with contextlib.closing(self._launcher):
                self.grading.close()
        self._on_end(self, error)

    def _show(self, result: TaskResult) -> None:
        if self._cancelled:
            raise CancelledError  # the other results would only say so, and replace its logs
        self.results.append(result)
        self._on_task(self, result)

    def cancel(self) -> None:
        """End every life; returns at once."""
        self._cancelled = True
        ending = threading.Thread(target=self.grading.bench.cancel, daemon=True)
        self._threads.append(ending)
        ending.start()

    def wait(self) -> None:
        for thread in list(self._threads):
            thread.join()
