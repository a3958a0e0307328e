"""Results for people: each task as soon as its verdict is final, and the progress until then."""

from __future__ import annotations

import contextlib
import textwrap
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from grader.course.catalog import Exercise, Task
from grader.report.logs import escaped
from grader.report.message import LABEL, labelled
from grader.verdicts import BLOCKED, FAIL, INCONCLUSIVE, PASS, ExerciseResult, Outcome, TaskResult

if TYPE_CHECKING:
    from grader.harness.workbench import Bench

WORD = {PASS: "PASS", FAIL: "FAIL", BLOCKED: "BLOCKED", INCONCLUSIVE: "INCONCLUSIVE"}
STYLE = {PASS: "bold green", FAIL: "bold red", BLOCKED: "yellow", INCONCLUSIVE: "bold magenta"}
LABEL_STYLE = {
    "means": "bold",
    "think": "bold cyan",
    "replay": "dim",
    "debug": "dim",
    "log": "dim",
    "same": "dim",
    "also": "dim",
    "and": "dim",
}
MAX_WIDTH = 110


def console() -> Console:
    """Standard output: as wide as the terminal up to MAX_WIDTH; colors only on a terminal."""
    out = Console(highlight=False, soft_wrap=True)
    out.width = min(out.width if out.is_terminal else MAX_WIDTH, MAX_WIDTH)
    return out


class UnderWay(Protocol):
    """What the progress display needs of a grading (engine.py)."""

    bench: Bench
    first_failure: Outcome | None

    def done(self) -> tuple[int, int]: ...


class Progress:
    """Prints each task's result; below them, a progress line while runs continue."""

    def __init__(self, out: Console, exercise: Exercise, title: bool = True):
        self.out, self.exercise, self.title = out, exercise, title
        self.live: Live | None = None
        self._shown = 0  # results

    def __enter__(self) -> Progress:
        if self.title:
            self.out.print(Text.assemble((self.exercise.id, "bold"), f"  {self.exercise.title}"))
        if self.out.is_terminal:
            self.live = Live(
                self._line(0, 0, 0), console=self.out, transient=True, refresh_per_second=8
            )
            self.live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live:
            with contextlib.suppress(OSError):  # the terminal may be gone
                self.live.__exit__(kind, error, trace)

    def update(self, grading: UnderWay) -> None:
        if self.live:
            done, total = grading.done()
            failed = grading.first_failure if self._shown == 0 else None
            self.live.update(self._line(done, total, grading.bench.lives_ended, failed))

    def _line(self, done: int, total: int, lives: int, failed: Outcome | None = None) -> Group:
        text = f" {done} of {total} checks, {lives} processes run" if total else " loading torch"
        if failed:
            text += f"; {first_word(failed)}"
        return Group(Spinner("dots", text=Text(text, style="dim")))

    def line(self, who: str, text: str) -> None:
        """A line that a process prints, while it runs."""
        self.out.print(Text.assemble((f"{who} | ", "dim"), escaped(text)))

    def show(self, result: TaskResult, in_full: bool = True) -> None:
        self._shown += 1
        show_task(self.out, result, in_full)


def first_word(outcome: Outcome) -> str:
    """What is known as soon as one check of a task fails."""
    return f"{outcome.task} fails" + (f" [{outcome.finding.code}]" if outcome.finding else "")


def show_task(out: Console, result: TaskResult, in_full: bool = True) -> None:
    points = f"{result.score}/{result.max_score}" if result.max_score else "one check"
    head = Text.assemble(
        (f"{WORD[result.verdict]:<7}", STYLE[result.verdict]), f"  {result.id}  {result.title}"
    )
    gap = max(2, min(out.width, 86) - head.cell_len - len(points))
    code = result.evidence.get("code")
    out.print(Text.assemble(head, " " * gap, points, (f"   [{code}]" if code else "", "dim")))
    if not in_full:
        return
    for label, text in result.evidence.get("rows", []):
        show_row(out, label, text)
    for label, text in result.evidence.get("measured", {}).items():
        show_row(out, label, text)
    if result.evidence.get("rows"):
        out.print()


def show_row(out: Console, label: str, text: str) -> None:
    """A labeled row, wrapped next to its label; a command stays on one line for copying."""
    style = LABEL_STYLE.get(label, "")
    width = max(30, out.width - LABEL - 3)
    lines = (
        [text]
        if label in ("replay", "debug")
        else textwrap.wrap(text, width, break_on_hyphens=False) or [""]
    )
    for n, line in enumerate(lines):
        out.print(Text.assemble("  " + labelled(label if n == 0 else ""), (line, style)))


CLUSTERS = {"slurm": "Slurm", "stand-in": "a stand-in for Slurm", "site": "the site's Slurm"}


def _clusters(runs: dict[str, int]) -> str:
    """Which cluster graded: "Slurm (10 runs), a stand-in for Slurm (2 runs)"."""
    texts = [
        f"{CLUSTERS.get(kind, kind)} ({number} run{'s' if number > 1 else ''})"
        for kind, number in sorted(runs.items())
    ]
    return ", ".join(texts)


def show_hint(
    out: Console, task: Task, rung: int, more: str = "Try it. The next call gives the next hint."
) -> None:
    if not task.hints:  # `grade release --without-hints`
        out.print(f"{task.id}  {task.title}: this copy of the course has no hints")
        return
    out.print(f"[bold]{task.id}  {task.title}[/bold]   hint {rung + 1} of {len(task.hints)}")
    show_row(out, "", task.hints[rung])
    if rung + 1 < len(task.hints):
        out.print(f"  {more}")
    else:
        out.print(f"  That was the last one. `grade hint {task.id} --again` starts over.")


def show_summary(out: Console, results: list[ExerciseResult], untouched: list[Exercise]) -> None:
    for r in results:
        lives = f"{r.lives} processes" if r.lives != 1 else "1 process"
        out.print(
            Text.assemble(
                (f"{r.id}  {r.score} of {r.max_score} points" if r.max_score else r.id, "bold"),
                f"   {r.seconds:.1f} s, {lives}, seed {r.seed}",
            )
        )
    kinds = {r.sandbox for r in results}
    if "none" in kinds:
        out.print(
            Text(
                "sandbox  none: your code could read and write whatever you can; for trusted "
                "submissions only",
                "bold yellow",
            )
        )
    elif kinds:
        out.print(Text(f"sandbox  {', '.join(sorted(kinds))}", "dim"))
    for r in results:
        if r.clusters:
            style = "bold yellow" if "stand-in" in r.clusters else "dim"
            out.print(Text(f"cluster  {_clusters(r.clusters)}", style))
    for exercise in untouched:
        show_beginning(out, exercise)


def show_beginning(out: Console, exercise: Exercise) -> None:
    first = exercise.tasks[0]
    out.print(
        f"\nThis is the untouched starter of {exercise.id}. Begin with {first.id}, "
        f"{first.title}:\n"
        f"read {exercise.folder.name}/README.md, then edit "
        f"{exercise.folder.name}/starter/{exercise.module}\n"
        f"({', '.join(first.functions)}). `grade hint {first.id}` gives a first hint."
    )
