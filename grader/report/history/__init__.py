"""What happened in the runs of a failing check, as plain data for a page (html.py draws it).

Lives report their own events, so these may be forged: of the wrong type, endless, or missing. All
that comes from a life is cleaned here; what is left has known types and a bounded size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from grader.report import excerpt
from grader.report.history.cluster_lanes import cluster_lane
from grader.report.history.comparison import compare
from grader.report.history.disk import disk_state
from grader.report.history.lanes import ProcessEvents, lane_of
from grader.report.history.limits import CHECKS, LANES, LINES, RUNS
from grader.report.history.safe_text import Budget, Translate
from grader.report.message import Problem


def of_task(
    problems: Iterable[Problem], translate: Translate, replay: Callable[[Problem], str]
) -> list[dict[str, Any]]:
    """Each check of a task that didn't pass: what it found, and its runs.

    translate  turns a text's paths into those that the student knows
    replay     the command that reproduces an outcome
    """
    budget = Budget(translate)
    return [_of_check(problem, budget, replay) for problem in list(problems)[:CHECKS]]


def _of_check(problem: Problem, budget: Budget, replay: Callable[[Problem], str]) -> dict[str, Any]:
    finding, runs = problem.finding, problem.runs
    subject = excerpt.failing(runs, finding)
    order = [run for run in runs if run is subject] + [run for run in runs if run is not subject]
    shown = [_of_run(run, runs, run is subject, budget) for run in order[:RUNS]]
    _, _, case = problem.check.partition("[")
    return {
        "check": problem.check,
        "title": problem.title,
        "case": case.removesuffix("]").replace("_", " "),
        "verdict": problem.verdict,
        "code": finding.code,
        "about": finding.about,
        "rows": [
            [label, budget.text(text, 2_000)] for label, text in (*finding.rows, *finding.advice)
        ],
        "replay": replay(problem),
        "disk": disk_state(finding.data.get("disk_state"), budget),
        "runs": list(_distinct(shown)),
        "runs_left_out": max(0, len(order) - RUNS),
    }


def _distinct(runs: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Without undisturbed runs that repeat each other, and processes that show nothing."""
    known = set()
    for run in runs:
        if not (run["last"] or run["printed"] or run["problem"]):
            if all(lane["end_kind"] == "finished" for lane in run["lanes"]):
                continue
        if run["subject"] or not run["undisturbed"] or run["name"] not in known:
            yield run
        if run["undisturbed"] and not run["subject"]:
            known.add(run["name"])


def _of_run(run: Any, runs: list[Any], subject: bool, budget: Budget) -> dict[str, Any]:
    out: dict[str, Any] = {
        "name": "",
        "story": "",
        "subject": subject,
        "undisturbed": False,
        "last": 0,
        "lanes": [],
        "strips": [],
        "epochs": [],
        "printed": [],
        "problem": "",
    }
    try:
        out["name"] = budget.text(getattr(run, "command", "") or "a job on a cluster", 2_000)
        of = _of_cluster_run if hasattr(run, "record") else _of_lives
        out |= of(run, runs, budget)
        out["printed"] = _printed(run, budget)
    except Exception as e:
        # whatever a life wrote, the rest of the page is there
        out["problem"] = f"this run can't be drawn: {budget.text(f'{type(e).__name__}: {e}')}"
    return out


def _of_lives(run: Any, runs: list[Any], budget: Budget) -> dict[str, Any]:
    lives = [[ProcessEvents.of(one) for one in life.processes] for life in run.lives]
    lanes, reached = [], 0
    for number, processes in enumerate(lives, 1):
        for rank, one in enumerate(processes):
            who = f"life {number}" + (f" rank {rank}" if len(processes) > 1 else "")
            lanes.append(lane_of(who, number, one, reached, budget))
        reached = max([reached, *(one.reached for one in processes)])
    known = _baseline(run, runs)
    compared = compare(lives, known, budget) if known is not None else {}
    return {
        "story": budget.text(run.story),
        "undisturbed": not run.schedule and reached > 0 and len(run.lives) == 1,
        "last": reached,
        "lanes": lanes[:LANES],
        **compared,
    }


def _baseline(run: Any, runs: list[Any]) -> Any:
    """The undisturbed run with the same command; None if the check has none."""
    alike = (other for other in runs if getattr(other, "command", None) == run.command)
    return next((o for o in alike if not o.schedule and o is not run and len(o.lives) == 1), None)


def _of_cluster_run(run: Any, runs: list[Any], budget: Budget) -> dict[str, Any]:
    """Its witness belongs to the grader, and reports what it saw itself."""
    lanes, reached = [], 0
    for number, events in enumerate(run.lives, 1):
        lane = cluster_lane(number, events, reached, budget)
        lanes.append(lane)
        reached = max(reached, lane["to"])
    course = {n: digest for n, digest in run.course.items() if n in run.undisturbed}
    same = sorted(n for n, digest in course.items() if digest == run.undisturbed[n])
    row = {"name": "training state", "same": same, "different": sorted(course.keys() - set(same))}
    strip = {"who": "", "rows": [row], "resumes": [], "missing": [], "beyond": []}
    faults = [f"{e['do']} after step {e['step']}" for e in run.all("fault")]
    return {
        "story": budget.text("; then ".join(faults) or "none"),
        "undisturbed": not faults,
        "last": reached,
        "lanes": lanes[:LANES],
        "strips": [strip] if course else [],
        "compared_to": max([*run.undisturbed, *course], default=0),
    }


def _printed(run: Any, budget: Budget) -> list[dict[str, Any]]:
    """The last lines of each process: [text, "script", "traceback" or ""]."""
    of: dict[str, list[Any]] = {}
    for line in excerpt.printed(run):
        of.setdefault(line.who, []).append(line)
    out = []
    for who, lines in sorted(of.items()):
        kept: list[list[str]] = []
        for line in reversed(lines[-LINES:]):  # the lines near the end say the most
            if (text := budget.line(line.text)) is None:
                break
            kept.append([text, "traceback" if line.traceback else "script" if line.script else ""])
        if kept:
            kept.reverse()
            out.append({"who": who, "lines": kept, "left_out": len(lines) - len(kept)})
    return out
