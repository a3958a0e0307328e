"""Runs the checks of an exercise against a submission and turns them into verdicts.

Checks are plain pytest tests in grader/checks. Their bodies run in threads here (they mostly wait
for processes), under pytest as well as under the `grade` command, so both give the same verdicts.
"""

from __future__ import annotations

import os
import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path

from grader.collection import Check, at_once, select
from grader.course import selection
from grader.course.catalog import ROOT, Exercise, Task
from grader.course.submissions import Submission
from grader.explain import complete
from grader.harness import launcher as launchers
from grader.harness.faults import AnyFault
from grader.harness.lab import Lab
from grader.harness.launcher import DiskFull, Limits, Lost
from grader.harness.workbench import Bench, Cancelled, course_paths
from grader.report import excerpt, history, logs, message, replay
from grader.verdicts import (
    BLOCKED,
    FAIL,
    HANGS,
    INCONCLUSIVE,
    PASS,
    ExerciseResult,
    Finding,
    Inconclusive,
    NotSelected,
    Outcome,
    TaskResult,
)

# the limit for grading one exercise; the longest solution takes half a minute
SECONDS, SECONDS_ON_A_SITE = 1800.0, 24 * 3600.0


class Grading:
    """The grading of one submission. `start` it, then ask for outcomes or the result."""

    def __init__(
        self,
        exercise: Exercise,
        submission: Submission,
        launcher,
        *,
        seed: int | None = None,
        jobs: int | None = None,
        tasks: list[int] | None = None,
        only: Sequence[str] = (),  # checks' names, or parts of them; empty: all
        faults: tuple[AnyFault, ...] | None = None,
        limits: Limits | None = None,
        logs: Path | None = None,  # a folder for logs of what failing checks printed
        logs_below: Path = ROOT,  # messages name them by their paths below this folder
        sandbox=None,  # grader.harness.sandbox.Sandbox; None: the best one
        seconds: float | None = None,  # for the whole grading
        cluster=None,  # grader.slurm.target.Where; None: what this machine has
        keep_history: bool = False,  # of failing checks' runs, for a page
        on_change: Callable[[Grading], None] | None = None,
    ):
        self.exercise, self.faults, self.tasks = exercise, faults, tasks
        self.logs, self.logs_below = logs, logs_below
        self.keep_history = keep_history
        self.seconds = seconds or (
            SECONDS_ON_A_SITE if cluster and cluster.kind == "site" else SECONDS
        )
        self._clock: threading.Timer | None = None
        self._late = False
        self.seed = random.SystemRandom().randrange(2**31) if seed is None else seed
        self.bench = Bench(submission, launcher, self.seed, jobs or default_jobs(), limits, sandbox)
        self.bench.cluster = cluster
        wanted = tuple(map(exercise.task, map(str, tasks))) if tasks else None
        self.checks = select(selection.Selection(exercise, wanted, tuple(only)))
        self.commands = replay.Commands(
            replay.submission_option(exercise, submission),
            self.seed,
            cluster.kind if cluster else None,
            {c.name: c.slug for c in self.checks},
        )
        self.whole = not only  # all checks of the tasks: only then there are points
        if only:
            of_them = {exercise.task(c.task).number for c in self.checks}
            self.tasks = sorted(of_them)
        self.on_change = on_change or (lambda grading: None)
        self._futures: dict[str, Future] = {}
        self._pool: ThreadPoolExecutor | None = None
        # check -> its finding of a life that went over a limit or hung
        self._over_limit: dict[str, Finding] = {}
        # the outcome that failed first, which decides its task's verdict before the task is done
        self.first_failure: Outcome | None = None
        self.began = time.monotonic()

    # --- running

    def start(self) -> Grading:
        self._clock = threading.Timer(self.seconds, self._time_is_up)
        self._clock.daemon = True
        self._clock.start()
        self._pool = ThreadPoolExecutor(
            max_workers=max(2 * self.bench.jobs, at_once(self.exercise))
        )
        preflight = self._pool.submit(self._preflight)
        for check in self.checks:
            self._futures[check.name] = self._pool.submit(self._run, check, preflight)
        return self

    def _time_is_up(self) -> None:
        self._late = True
        self.bench.cancel()

    def _preflight(self) -> Finding | None:
        """Import the submission once, so that an import error is one finding, not many."""
        from grader.checks.endings import imports_cleanly

        try:
            if self.bench.submission.problem:
                return Finding("import", [("submission", self.bench.submission.problem)])
            names = [name for task in self.exercise.tasks for name in task.functions]
            imports_cleanly(Lab(self.bench, "preflight").launch("import_check.py"), names)
        except Finding as finding:
            return finding
        except Exception as e:
            return self._unproved(e)
        return None

    def _run(self, check: Check, preflight: Future) -> Outcome | None:
        finding: Finding | None = preflight.result()
        began = time.monotonic()
        lab = Lab(self.bench, check.name, self.faults, hopeless=lambda: self._hopeless(check))
        try:
            finding = finding or lab.hopeless()
            if finding is None and not self._blockers(
                self.exercise.task(check.task), only_known=True
            ):
                check.function(lab, **check.params)
        except Finding as e:
            finding = e
            if e.code in HANGS:
                self._over_limit[check.name] = e
        except NotSelected:
            return None
        except Exception as e:
            finding = self._unproved(e)
        verdict = complete(finding).verdict if finding else PASS
        outcome = Outcome(
            check.name,
            check.title,
            check.task,
            verdict,
            began,
            time.monotonic(),
            finding,
            lab.figures,
            lab.runs,
        )
        if verdict == FAIL and self.first_failure is None and not self._may_be_blocked(check):
            self.first_failure = outcome
        self.on_change(self)
        return outcome

    def _hopeless(self, check: Check) -> Finding | None:
        """The hang that an earlier check of the same task found: this one would hang as well.

        Only checks before it count, so that the report doesn't depend on which was faster.
        """
        before = self.checks[: self.checks.index(check)]
        return next(
            (
                self._over_limit[c.name]
                for c in before
                if c.task == check.task and c.name in self._over_limit
            ),
            None,
        )

    def _unproved(self, error: Exception) -> Inconclusive:
        """Something on our side broke, which proves nothing about the student's work."""
        if isinstance(error, Cancelled) and self._late:
            return Inconclusive(
                "late",
                [
                    (
                        "stopped",
                        f"the whole grading took longer than {self.seconds:g} s (--grading-limit)",
                    )
                ],
            )
        if isinstance(error, Cancelled):
            return Inconclusive("cancelled", [("stopped", "the grading was interrupted")])
        if DiskFull.says(error):
            error = DiskFull(self.bench.scratch.parent)
        if isinstance(error, Lost):
            return Inconclusive("machinery", [(error.label, str(error))])
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = (
            f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}:{where.lineno})"
        )
        return Inconclusive("grader", [("grader", f"the check itself broke: {text}")])

    def _blockers(self, task: Task, only_known: bool = False) -> list[str]:
        """The tasks that `task` builds on and that aren't passed (so far, if `only_known`)."""
        return [
            need
            for need in task.needs
            if any(
                (not only_known or future.done()) and (o := future.result()) and o.blocks
                for future in self._of(need)
            )
            or (not only_known and self._of(need) and self._blockers(self.exercise.task(need)))
        ]

    def _may_be_blocked(self, check: Check) -> bool:
        graded = {c.task for c in self.checks}
        return not graded.isdisjoint(self.exercise.task(check.task).needs)

    def _of(self, task_id: str) -> list[Future]:
        return [
            self._futures[c.name]
            for c in self.checks
            if c.task == task_id and c.name in self._futures
        ]

    # --- results

    def outcome(self, name: str) -> Outcome | None:
        """The outcome of the check called `name`, as pytest writes it; waits for it."""
        return self._futures[name].result()

    def blockers(self, task_id: str) -> list[str]:
        """The tasks that this one builds on and that didn't pass; waits for them."""
        return self._blockers(self.exercise.task(task_id))

    def done(self) -> tuple[int, int]:
        """The number of decided checks, and of all checks."""
        return sum(f.done() for f in self._futures.values()), len(self._futures)

    def task_result(self, task: Task, explained: dict[str, str]) -> TaskResult:
        """The verdict of one task, when its checks are done.

        explained  cause -> the task that reported it
        """
        outcomes = [o for f in self._of(task.id) if (o := f.result())]
        seconds = max((o.ended for o in outcomes), default=0) - min(
            (o.began for o in outcomes), default=0
        )
        blockers = self._blockers(task)
        problems = [o for o in outcomes if message.is_problem(o)]
        # one that never got to what its title says comes after those that did
        problems.sort(key=lambda o: bool(o.finding.data.get("unreached")))
        if blockers:
            verdict = BLOCKED
        elif any(o.verdict == FAIL for o in problems):
            verdict = FAIL
            problems = [o for o in problems if o.verdict == FAIL]
        elif problems or not outcomes:
            verdict = INCONCLUSIVE
        else:
            verdict = PASS
        points = task.points if self.whole else 0
        score = points if verdict == PASS else 0
        result = TaskResult(task.id, task.title, verdict, score, points, round(seconds, 3))
        said = self._message(task, verdict, problems, blockers, explained)
        result.message, result.evidence = str(said), said.data
        if self.keep_history and verdict in (FAIL, INCONCLUSIVE):
            # now: the runs' files are gone when the grading is closed
            result.history = history.of_task(problems, self._translate, self.commands.replay)
        if figures := {what: text for o in outcomes for what, text in o.figures.items()}:
            result.evidence["measured"] = figures
        return result

    def _message(
        self,
        task: Task,
        verdict: str,
        problems: list[message.Problem],
        blockers: list[str],
        explained: dict[str, str],
    ) -> message.Message:
        failed = [(o.title, o.runs) for o in problems if not blockers]
        said = excerpt.whole(failed, self._translate)
        log = ""
        if self.logs:
            log = logs.keep(self.logs / f"{task.id}.log", said, self.logs_below)
        if verdict == PASS:
            return message.Message()
        if verdict == BLOCKED:
            return message.blocked(blockers)
        if not problems:
            return message.nothing_selected()
        return message.failed(
            problems,
            explained,
            task_id=task.id,
            seed=self.seed,
            replay=self.commands.replay(problems[0]),
            debug=self.commands.debug(problems[0]),
            log=log,
            printed=excerpt.rows(problems[0].runs, problems[0].finding),
            translate=self._translate,
        )

    def _translate(self, text: str) -> str:
        return course_paths(text, self.bench)

    def result(self, on_task: Callable[[TaskResult], None] | None = None) -> ExerciseResult:
        """Wait for everything; `on_task` gets each task's result as soon as it is final."""
        explained: dict[str, str] = {}
        results = []
        for task in self.exercise.tasks:
            if self.tasks and task.number not in self.tasks:
                continue
            results.append(self.task_result(task, explained))
            if on_task:
                on_task(results[-1])
        return self.so_far(results)

    def so_far(self, results: list[TaskResult]) -> ExerciseResult:
        """The result as far as it is known, with these tasks."""
        return ExerciseResult(
            self.exercise.id,
            self.exercise.title,
            results,
            round(time.monotonic() - self.began, 3),
            self.bench.lives_ended,
            self.seed,
            self.bench.sandbox.kind,
            dict(Counter(self.bench.clusters)),
            attempts=sorted(set(self.bench.attempts), key=astuple),
        )

    def close(self) -> None:
        """Remove what the grading made, and cancel checks that still run."""
        if self._clock:
            self._clock.cancel()
        if not all(future.done() for future in self._futures.values()):
            self.bench.cancel()
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self.bench.close()


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_jobs() -> int:
    return min(8, cores())


def grade(exercise: Exercise, submission: Submission, launcher=None, **options) -> ExerciseResult:
    """Grade one submission of one exercise from start to end."""
    own = launcher is None
    launcher = launcher or launchers.choose()
    on_task = options.pop("on_task", None)
    grading = Grading(exercise, submission, launcher, **options)
    try:
        return grading.start().result(on_task)
    finally:
        grading.close()
        if own:
            launcher.close()
