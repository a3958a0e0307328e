"""What a failing check's processes printed: the lines next to the fault, and all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from grader.harness.faults import show_schedule
from grader.harness.printed import Line
from grader.harness.printed import lines as lines_of
from grader.verdicts import Finding

MOST = 3  # lines of a life in a message
OF_A_JOB = 6  # ... of a job whose lives share one log
MOST_KEPT = 8 << 20  # characters of a log, after which no other check is added
WIDTH = 160  # characters of a line in a message


def rows(runs: list[Any], finding: Finding) -> list[tuple[str, str]]:
    """The last lines that the failing run's lives printed before the fault or their end.

    Empty if they printed nothing. Tracebacks are left out, since the finding has the frames. If a
    life answers many questions, only the lines of the finding's question count.
    """
    run = failing(runs, finding)
    if run is None:
        return []
    of_a_job = hasattr(run, "printed")
    # a job script's own traceback is in no finding
    untold = of_a_job and not finding.ending
    if "window" in finding.data:
        near = _in_window(runs, *finding.data["window"])
    elif not of_a_job and any(_asks_many(life) for life in run.lives):
        near = []  # which question they belong to isn't known
    else:
        said = [line for line in printed(run) if not line.script and (untold or not line.traceback)]
        if life := finding.data.get("printed_by"):
            said = [line for line in said if line.life == life]
        near = said[-OF_A_JOB:] if of_a_job else _near_the_fault(run, said, finding)
    texts = [f"{line.who}: {line.text[:WIDTH]}" for line in near]
    return [("printed" if n == 0 else "", text) for n, text in enumerate(texts)]


def _asks_many(life: Any) -> bool:
    """Does it work through questions, or the points of a plan?"""
    process = life.processes[0]
    return process.first("asked") is not None or process.first("point") is not None


def _in_window(runs: list[Any], began: float, ended: float) -> list[Line]:
    """What was printed between two events; a line has the time of the event that follows it."""
    said = [line for run in runs for line in printed(run) if not line.script and not line.traceback]
    return [line for line in said if began < line.t <= ended][-MOST:]


def _near_the_fault(run: Any, said: list[Line], finding: Finding) -> list[Line]:
    near: list[Line] = []
    for number in sorted({line.life for line in said})[-2:]:
        moment = _moment(run, number, finding)
        near += [line for line in said if line.life == number and line.t <= moment][-MOST:]
    return near


def failing(runs: list[Any], finding: Finding) -> Any:
    """The run that the finding is about: the last one with its faults, or the last one."""
    of_fault = [run for run in runs if _schedule(run) == (finding.fault or "")]
    return (of_fault or runs or [None])[-1]


def failing_life(runs: list[Any], finding: Finding) -> tuple[str, int] | None:
    """(life, rank) to look at after this finding: of the run that it's about, the last life.

    None if no run of it can be debugged: it ran on a cluster.
    """
    run = failing(runs, finding)
    if run is None or "label" not in getattr(run, "notes", {}):
        return None
    # of ranks that wait for each other, which failed first is chance
    rank = finding.data.get("rank", 0)
    return f"{run.notes['label']}.{len(run.lives)}", rank


def printed(run: Any) -> list[Line]:
    """A run's lines; a run on a cluster has one log for all of its lives."""
    return run.printed() if hasattr(run, "printed") else lines_of(run)


def _schedule(run: Any) -> str:
    return show_schedule(run.schedule) if getattr(run, "schedule", None) else ""


def _moment(run: Any, number: int, finding: Finding) -> float:
    """When the life met its fault, parted from the undisturbed run, or ended."""
    life = run.lives[number - 1]
    times = [e["t"] for one in life.processes for e in one.all("fault")]
    if not times and number == len(run.lives) and "step" in finding.data:
        step = finding.data["step"]
        times = [e["t"] for e in life.all("step") if e.get("step") == step]
    return min(times, default=float("inf"))


def whole(checks: Iterable[tuple[str, list[Any]]], translate: Callable[[str], str]) -> str:
    """Everything that the runs of these checks printed, as text for a log; empty if that is
    nothing. A run of several checks stands with the first.

    checks     the title and the runs of each
    translate  turns a text's paths into those that the student knows
    """
    parts: list[str] = []
    known: list[Any] = []
    for title, runs in checks:
        texts = []
        for number, run in enumerate(runs, 1):
            if any(run is one for one in known):
                continue
            known.append(run)
            if lines := list(_as_text(printed(run))):
                story = getattr(run, "story", "")
                command = getattr(run, "command", "")
                head = f"=== run {number}: {command}" + (f"\nfault: {story}" if story else "")
                texts.append("\n".join([head, *lines]))
        if texts and sum(map(len, parts)) < MOST_KEPT:
            parts.append("\n\n".join([f"##### {title}", *texts]))
    return translate("\n\n".join(parts) + "\n") if parts else ""


def _as_text(printed: Iterable[Line]) -> Iterable[str]:
    return (f"{line.who:<14} | {line.text}" for line in printed)
