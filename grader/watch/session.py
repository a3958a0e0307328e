"""What `grade watch` grades next, and what it shows."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from rich.text import Text

from grader import engine, explain
from grader.course import starters, submissions
from grader.course.catalog import Task
from grader.course.hints import Seen
from grader.course.progress import Progress
from grader.course.selection import Selection
from grader.course.submissions import Submission
from grader.errors import UsageError
from grader.harness import launcher as launchers
from grader.harness.sandbox import Sandbox
from grader.report import html, terminal
from grader.slurm.target import Where
from grader.verdicts import PASS, TaskResult
from grader.watch.changes import Changes, network
from grader.watch.keys import Keys
from grader.watch.served import Served
from grader.watch.turns import Plan, Turn, Warm

KEYS = "h hint   r run again   a all tasks   n next task   q quit   ? help"
HELP = """  h  the next hint for the task that you are working on
  r  grade again, with other random draws
  a  grade all tasks, and show every message
  n  move on to the next task, passed or not
  q  quit (as Ctrl-C does)"""


class Session:
    """Everything that is shown, and every decision, is the main thread's. The others post to it."""

    def __init__(
        self,
        selected: Selection,
        where: Path | None,
        progress: Progress,
        *,
        folder: Path,
        sandbox: Sandbox,
        launcher: str | None = None,
        jobs: int | None = None,
        poll: bool | None = None,
        cluster: Where | None = None,
        served: Served | None = None,
    ):
        """
        selected  its tasks and checks are graded at every save; without any, from the first task
                  that isn't passed
        where     the submission; None: the starter
        folder    for logs, and what hints were seen
        poll      look for changes instead of waiting for events; None: on network file systems
        cluster   on which exercise 4 is graded
        served    shows the newest results in a browser
        """
        self.exercise, self.where, self.progress = selected.exercise, where, progress
        self.selected: Selection | None = selected if selected.tasks or selected.checks else None
        self.seen, self.logs = Seen(folder / "hints.json"), folder / "logs"
        self.sandbox, self.jobs, self.poll = sandbox, jobs, poll
        self.cluster, self.served = cluster, served
        self.folder = self._submission().folder
        self.task: Task | None = None  # chosen by a key
        self.warm = Warm(lambda: launchers.choose(launcher, sandbox.kind))
        self.turn: Turn | None = None
        self.turns: list[Turn] = []  # that haven't ended yet
        self.shown: terminal.Progress | None = None
        self.out = terminal.console()
        self._posted: deque[Callable[[], None]] = deque()
        self._awake, self._wake = os.pipe()
        for fd in (self._awake, self._wake):
            os.set_blocking(fd, False)
        self.keyed = self._early = False
        self._quitting = False

    # --- the loop

    def run(self) -> None:
        kind = network(self.folder)
        poll = bool(kind) if self.poll is None else self.poll
        try:
            with Keys() as keys, Changes(self.folder, lambda: self._post(self._saved), poll):
                self.keyed = keys.fd is not None
                if kind and poll:
                    self.out.print(
                        Text(f"{self.folder} is on {kind}: looking for changes (--poll)")
                    )
                self._publish(f"grading {self.exercise.id}")
                self._begin(self._plan())
                self._loop(keys)
        finally:
            self._stop()
            for turn in self.turns:
                turn.wait()
            self.warm.close()

    def _loop(self, keys: Keys) -> None:
        sources = [self._awake] if keys.fd is None else [self._awake, keys.fd]
        while not self._quitting:
            ready = select.select(sources, [], [])[0]
            if self._awake in ready:
                os.read(self._awake, 4096)
                while self._posted and not self._quitting:
                    self._posted.popleft()()
            if keys.fd in ready:
                self._press(keys.read())

    def _post(self, what: Callable[[], None]) -> None:
        """Have the main thread do it."""
        self._posted.append(what)
        try:
            os.write(self._wake, b"x")
        except BlockingIOError:  # it is awake already
            pass

    def _press(self, pressed: str) -> None:
        if not pressed:  # the terminal is gone
            self._quitting = True
        for key in pressed:
            if key == "h":
                self._hint()
            elif key == "r":
                self._begin(self.turn.plan if self.turn else self._plan())
            elif key == "a":
                self._begin(Plan(in_full=True))
            elif key == "n":
                self._go_on()
            elif key == "?":
                self.out.print(HELP)
            elif key in ("q", "\x04"):  # or Ctrl-D
                self._quitting = True
                return

    # --- what to grade

    def _submission(self) -> Submission:
        return submissions.submission(self.exercise, self.where)

    def _plan(self) -> Plan:
        if self.selected:
            return Plan(tuple(self.selected.numbers or ()) or None, self.selected.checks)
        task = self._current()
        if task is None:
            return Plan()
        return Plan(tuple(t.number for t in self.exercise.tasks if t.number >= task.number))

    def _current(self) -> Task | None:
        """The task that the student works on; None if every task is passed."""
        if self.task:
            return self.task
        if self.selected and self.selected.tasks:
            return self.selected.tasks[0]
        return self.progress.first_not_passed(self.exercise, self.folder)

    def _go_on(self) -> None:
        now = self._current() or self.exercise.tasks[-1]
        later = [task for task in self.exercise.tasks if task.number > now.number]
        if not later:
            self.out.print(f"{now.id} is the last task. {self.progress.what_next(self.exercise)}")
            return
        self.task, self.selected = later[0], None
        self._begin(self._plan())

    # --- grading

    def _saved(self) -> None:
        self._begin(self._plan())

    def _begin(self, plan: Plan) -> None:
        self._stop()
        if not plan.already:  # else it continues below what is shown
            self.out = terminal.console()  # the window may have another size now
            if self.out.is_terminal:
                self.out.clear()
            else:
                self.out.print(f"--- {time.strftime('%H:%M:%S')}")
        try:
            work = self._submission()
            problem = work.problem
        except UsageError as e:
            problem = str(e)
        if problem:
            self.out.print(Text.assemble(("waiting  ", "bold yellow"), problem))
            self._publish(f"waiting: {problem}")
            self._footer()
            return
        self.shown = terminal.Progress(self.out, self.exercise, title=not plan.already)
        self.shown.__enter__()
        self.turn = Turn(
            self.exercise,
            work,
            plan,
            self.warm.take(),
            sandbox=self.sandbox,
            logs=self.logs / work.slug,
            jobs=self.jobs,
            cluster=self.cluster,
            keep_history=self.served is not None,
            on_change=lambda grading: self._post(lambda: self._changed(grading)),
            on_task=lambda turn, result: self._post(lambda: self._decided(turn, result)),
            on_end=lambda turn, error: self._post(lambda: self._ended(turn, error)),
        )
        self.turns.append(self.turn)
        self._early = False

    def _stop(self) -> None:
        """End the grading that runs, if one does."""
        if self.turn and self.turn in self.turns:
            self.turn.cancel()
        self.turn = None
        self._close_progress()

    def _close_progress(self) -> None:
        if self.shown:
            self.shown.__exit__(None, None, None)
        self.shown = None

    def _changed(self, grading: engine.Grading) -> None:
        if not self.turn or grading is not self.turn.grading or not self.shown:
            return
        self.shown.update(grading)
        failed = grading.first_failure
        if failed and not self.turn.results and not self._early:
            self._early = True
            if not self.out.is_terminal:  # there, the progress line says it
                self.out.print(Text(f"{terminal.first_word(failed)}; its other checks run"))

    def _decided(self, turn: Turn, result: TaskResult) -> None:
        if turn is not self.turn:
            return
        if not turn.plan.checks:
            self.progress.remember(turn.work, result, turn.seed)
            if self.task and result.id == self.task.id and result.verdict == PASS:
                known = self.progress.of(self.folder)
                self.task = next(
                    (
                        task
                        for task in self.exercise.tasks[self.task.number :]
                        if task.id not in known or known[task.id].verdict != PASS
                    ),
                    None,
                )
        failed = [r for r in turn.results if r.verdict != PASS]
        in_full = turn.plan.in_full or not failed or result.id == failed[0].id
        assert self.shown  # as long as the turn is the current one
        self.shown.show(result, in_full)
        self._publish("more tasks are being graded", turn)
        # only now: loading torch would have delayed this verdict
        self.warm.prepare()

    def _ended(self, turn: Turn, error: Exception | None) -> None:
        turn.wait()  # its threads have nothing left to do
        self.turns.remove(turn)
        if turn is not self.turn:
            return
        self._close_progress()
        self.warm.prepare()
        if error:
            raise error
        self._publish(f"watching {self.folder}", turn)
        if any(result.verdict != PASS for result in turn.results):
            if starters.untouched(self.exercise, turn.work):
                terminal.show_beginning(self.out, self.exercise)
        elif not self.selected:
            passed = {result.id for result in turn.results}
            passed |= {self.exercise.task(number).id for number in turn.plan.already}
            numbers = {t.id: t.number for t in self.exercise.tasks}
            if rest := tuple(n for name, n in numbers.items() if name not in passed):
                # they passed before, with other files
                self._begin(Plan(rest, already=tuple(numbers[name] for name in sorted(passed))))
                return
            self.out.print(
                f"\n{self.exercise.id}: every task is passed, "
                f"{self.exercise.points} of {self.exercise.points} points. "
                f"{self.progress.what_next(self.exercise)}"
            )
        self._footer()

    def _footer(self) -> None:
        self.out.print(Text(f"\nwatching {self.folder}", "dim"))
        if self.served:
            self.out.print(Text(f"results in a browser: {self.served.address}", "dim"))
        if self.keyed:
            self.out.print(Text(KEYS, "dim"))

    def _publish(self, state: str, turn: Turn | None = None) -> None:
        if self.served:
            results = [turn.grading.so_far(turn.results)] if turn else []
            live = html.Live(self.served.version + 1, state)
            self.served.publish(html.page(results, explain.explanations(), live=live))

    def _hint(self) -> None:
        task = self._current()
        if task is None:
            self.out.print(f"{self.exercise.id}: every task is passed, so there is nothing to hint")
            return
        rung = self.seen.next_rung(task)
        terminal.show_hint(self.out, task, rung, more="Try it. h gives the next hint.")
        with contextlib.suppress(UsageError):  # it is remembered until we quit
            self.seen.remember(task, rung)
