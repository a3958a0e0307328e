"""What happened in the runs of a failing check, as plain data for a page (html.py draws it).

Lives report their own events, so these may be forged: of the wrong type, endless, or missing. All
that comes from a life is cleaned here; what is left has known types and a bounded size.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from grader.harness.preemption import Preempt, Sent
from grader.harness.run import WHY_ENDED
from grader.harness.trajectory import Trajectory
from grader.report import printed
from grader.report.logs import escaped
from grader.report.message import Problem

STEPS = 1_000  # the last step that is drawn; the longest run has about thirty
CHECKS, RUNS, LANES = 8, 6, 24  # most of a task, of a check, of a run
NAMES, MARKS, FILES = 40, 200, 60  # most components, marks of a life, files of a disk state
SAMPLES = 2_000  # most of an epoch
LINES, LINE = 200, 300  # most lines that a process printed, and characters of a line
PRINTED = 200_000  # characters that all processes of a task printed
EVENTS = 14  # most operations before a crash

Translate = Callable[[str], str]


def of_task(
    problems: Iterable[Problem], translate: Translate, replay: Callable[[Problem], str]
) -> list[dict[str, Any]]:
    """Each check of a task that didn't pass: what it found, and its runs.

    translate  turns a text's paths into those that the student knows
    replay     the command that reproduces an outcome
    """
    budget = _Budget(translate)
    return [_of_check(problem, budget, replay) for problem in list(problems)[:CHECKS]]


class _Budget:
    """Turns texts of lives into safe ones, as long as there is room for them."""

    def __init__(self, translate: Translate):
        self.left, self.translate = PRINTED, translate

    def text(self, value: object, most: int = LINE) -> str:
        return escaped(self.translate(str(value)[: 2 * most]))[:most]

    def line(self, text: str) -> str | None:
        """None: there is no room left."""
        safe = self.text(text)
        self.left -= len(safe)
        return safe if self.left > 0 else None


def _of_check(
    problem: Problem, budget: _Budget, replay: Callable[[Problem], str]
) -> dict[str, Any]:
    finding, runs = problem.finding, problem.runs
    subject = printed.failing(runs, finding)
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
        "disk": _disk(finding.data.get("disk_state"), budget),
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


# --- a run ----------------------------------------------------------------------------------------


def _of_run(run: Any, runs: list[Any], subject: bool, budget: _Budget) -> dict[str, Any]:
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


def _of_lives(run: Any, runs: list[Any], budget: _Budget) -> dict[str, Any]:
    lives = [[_Process.of(one) for one in life.processes] for life in run.lives]
    lanes, reached = [], 0
    for number, processes in enumerate(lives, 1):
        for rank, one in enumerate(processes):
            who = f"life {number}" + (f" rank {rank}" if len(processes) > 1 else "")
            lanes.append(_lane(who, number, one, reached, budget))
        reached = max([reached, *(one.reached for one in processes)])
    known = _baseline(run, runs)
    compared = _compared(lives, known, budget) if known is not None else {}
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


@dataclass
class _Process:
    """A life's process, with those of its events that are what they should be."""

    life: Any
    events: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, life: Any) -> _Process:
        return cls(life, [e for e in life.events if _sound(e)])

    def all(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == event]

    def first(self, event: str) -> dict[str, Any] | None:
        return next(iter(self.all(event)), None)

    @property
    def resumed_at(self) -> int:
        began = self.first("life")
        return int(began["step"]) if began else 0

    @property
    def steps(self) -> list[dict[str, Any]]:
        losses = {e["step"]: e["loss"] for e in self.all("loss")}
        return [e | {"loss": losses[e["step"]]} for e in self.all("step") if e["step"] in losses]

    @property
    def reached(self) -> int:
        steps: list[int] = [e["step"] for e in self.steps]
        return max([self.resumed_at, *steps])


_WITH_A_STEP = {"life", "step", "loss", "saving", "saved", "fault", "signal", "end"}


def _sound(e: dict[str, Any]) -> bool:
    """Is the event of a known kind, with fields of the right types?"""
    name = e.get("event")
    if name not in _WITH_A_STEP or type(e.get("step")) is not int or not 0 <= e["step"] <= STEPS:
        return False
    if name == "loss":
        return isinstance(e.get("loss"), str)
    if name in ("step", "end"):
        state, indices = e.get("state"), e.get("indices", [])
        return (
            isinstance(state, dict)
            and all(isinstance(digest, str) for digest in state.values())
            and isinstance(indices, list)
            and all(type(i) is int for i in indices)
        )
    return True


def _lane(who: str, life: int, one: _Process, reached: int, budget: _Budget) -> dict[str, Any]:
    """What one process of a life did.

    reached  the last step that an earlier life had finished: it trains again what is below
    """
    end_kind, end = _end(one, budget)
    return {
        "who": who,
        "life": life,
        "from": one.resumed_at,
        "again": max(one.resumed_at, min(reached, one.reached)),
        "to": one.reached,
        "marks": _marks(one, budget)[:MARKS],
        "end": end,
        "end_kind": end_kind,
    }


def _marks(one: _Process, budget: _Budget) -> list[dict[str, Any]]:
    """[{"kind", "step", "text"}] of the moments that matter, by step.

    A step of 7.5 is the middle of the eighth.
    """
    out = []
    if one.resumed_at:
        text = f"resumes from the checkpoint of step {one.resumed_at}"
        out.append({"kind": "resume", "step": one.resumed_at, "text": text})
    saved = {e["step"] for e in one.all("saved")}
    saving = {e["step"] for e in one.all("saving")}
    out += [{"kind": "save", "step": n, "text": f"saves step {n}"} for n in sorted(saved)]
    for n in sorted(saving - saved):
        text = f"its save of step {n} doesn't return"
        out.append({"kind": "unfinished", "step": n, "text": text})
    fault = getattr(one.life, "fault", None)
    if not isinstance(fault, Preempt):  # its signals are marks of their own
        story = fault.story if fault else "a fault"
        out += [{"kind": "fault", "step": e["step"], "text": story} for e in one.all("fault")]
    for e in one.all("signal"):
        step = e["step"] if e.get("phase") else max(0, e["step"] - 0.5)
        out.append({"kind": "signal", "step": step, "text": budget.text(_signal(e))})
    return sorted(out, key=lambda mark: mark["step"])


def _signal(e: dict[str, Any]) -> str:
    try:
        return Sent(e["signal"], e["step"], e.get("phase") or "", e.get("number")).story
    except (AttributeError, KeyError, TypeError, ValueError):
        return f"a signal at step {e['step']}"


def _end(one: _Process, budget: _Budget) -> tuple[str, str]:
    """(kind, text) of how a process ended: finished, killed, left or failed."""
    life = one.life
    if life.ended:
        return "failed", f"ended by the grader: {WHY_ENDED.get(life.ended, life.ended)}"
    if life.status < 0:
        name = _name(-life.status)
        fault = life.fault is not None and one.first("fault") is not None
        return ("killed", f"{name}, the fault") if fault else ("failed", f"died of {name}")
    if life.preempted:
        return "left", f"left with exit status {life.status}: run me again"
    raised = life.first("crash")
    if life.status:
        if raised and isinstance(raised.get("type"), str):
            return "failed", f"raised {budget.text(raised['type'], 60)}"
        return "failed", f"left with exit status {life.status}"
    return ("finished", "finished") if life.first("end") else ("failed", "left before the end")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# --- compared with the undisturbed run ------------------------------------------------------------


def _compared(lives: list[list[_Process]], known: Any, budget: _Budget) -> dict[str, Any]:
    """Per rank, each component at each step; per epoch, the samples."""
    undisturbed = [_Process.of(one) for one in known.lives[0].processes]
    ranks = len(undisturbed)
    if any(len(processes) != ranks for processes in lives):
        return {}  # another number of ranks: theirs can't be told apart by rank
    strips, pairs = [], []
    for rank in range(ranks):
        trained = Trajectory()
        for processes in lives:
            trained = trained.join(Trajectory.of(processes[rank]))
        expected = Trajectory.of(undisturbed[rank])
        pairs.append((trained, expected))
        strip = _strip(trained, expected, budget)
        if strip["rows"]:
            strips.append({"who": f"rank {rank}" if ranks > 1 else "", **strip})
    last = max([0, *(n for _, expected in pairs for n in expected.steps)])
    reached = max([0, *(n for trained, _ in pairs for n in trained.steps)])
    return {"strips": strips, "compared_to": max(last, reached), "epochs": _epochs(pairs)}


def _strip(trained: Trajectory, expected: Trajectory, budget: _Budget) -> dict[str, Any]:
    rows = []
    for name, steps in list(trained.by_component(expected).items())[:NAMES]:
        different = [n for n, same in steps.items() if not same]
        same = [n for n, same in steps.items() if same]
        rows.append({"name": budget.text(name, 60), "same": same, "different": different})
    both = trained.steps.keys() & expected.steps.keys()
    return {
        "rows": rows,
        "resumes": list(trained.resumes),
        "missing": sorted(expected.steps.keys() - both),
        "beyond": sorted(trained.steps.keys() - both),
    }


def _epochs(pairs: list[tuple[Trajectory, Trajectory]]) -> list[dict[str, Any]]:
    """Of each epoch, how often its samples were trained.

    The undisturbed run says which steps an epoch has. Steps that the run didn't come to count in
    neither of the two.
    """
    steps_of: dict[str, list[int]] = {}  # digest of the epoch -> its steps
    for n, record in sorted(pairs[0][1].steps.items()):
        steps_of.setdefault(record["state"].get("epoch", ""), []).append(n)
    reached = max([0, *(n for trained, _ in pairs for n in trained.steps)])
    out = []
    for number, all_steps in enumerate(steps_of.values(), 1):
        steps = [n for n in all_steps if n <= reached]
        wanted = Counter(i for _, expected in pairs for i in _samples(expected, steps))
        got = Counter(i for trained, _ in pairs for i in _samples(trained, steps))
        if wanted:
            out.append(
                {
                    "number": number,
                    "steps": [steps[0], steps[-1]],
                    "whole": steps == all_steps,
                    "samples": sorted(wanted.keys() | got.keys())[:SAMPLES],
                    "missed": sorted((wanted - got).keys()),
                    "more": sorted((got - wanted).keys()),
                }
            )
    return out


def _samples(trajectory: Trajectory, steps: list[int]) -> list[int]:
    return [i for n in steps for i in trajectory.steps.get(n, {}).get("indices", [])]


# --- a run on a cluster ---------------------------------------------------------------------------


def _of_cluster_run(run: Any, runs: list[Any], budget: _Budget) -> dict[str, Any]:
    """Its witness belongs to the grader, and reports what it saw itself."""
    lanes, reached = [], 0
    for number, events in enumerate(run.lives, 1):
        lane = _cluster_lane(number, events, reached, budget)
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


def _cluster_lane(
    number: int, events: list[dict[str, Any]], reached: int, budget: _Budget
) -> dict[str, Any]:
    def all_of(name: str) -> list[dict[str, Any]]:
        return [e for e in events if e["event"] == name]

    began = next((e["step"] for e in all_of("resumed")), 0)
    marks, step = [], began
    saved = {e["step"] for e in all_of("saved")}
    if began:
        text = f"resumes from the checkpoint of step {began}"
        marks.append({"kind": "resume", "step": began, "text": text})
    for e in events:
        if e["event"] == "step":
            step = e["step"]
        elif e["event"] == "saved":
            marks.append({"kind": "save", "step": e["step"], "text": f"saves step {e['step']}"})
        elif e["event"] == "saving" and e["step"] not in saved:
            text = f"its save of step {e['step']} doesn't return"
            marks.append({"kind": "unfinished", "step": e["step"], "text": text})
        elif e["event"] == "fault":
            text = f"{e['do']} after step {e['step']}"
            marks.append({"kind": "fault", "step": e["step"], "text": text})
        elif e["event"] == "signal":
            marks.append({"kind": "signal", "step": step, "text": budget.text(e["signal"], 20)})
    left = next(iter(all_of("left")), None)
    kind, end = ("killed", "gone") if all_of("fault") else ("failed", "gone")
    if left:
        kind, end = "left", f"left with exit status {left['status']}"
    return {
        "who": budget.text(f"life {number} job {events[0].get('job', '')}", 60),
        "life": number,
        "from": began,
        "again": max(began, min(reached, step)),
        "to": step,
        "marks": marks[:MARKS],
        "end": end,
        "end_kind": kind,
    }


# --- what was printed, and what lay on the disk ---------------------------------------------------


def _printed(run: Any, budget: _Budget) -> list[dict[str, Any]]:
    """The last lines of each process: [text, "script", "traceback" or ""]."""
    of: dict[str, list[Any]] = {}
    for line in printed.printed(run):
        of.setdefault(line.who, []).append(line)
    out = []
    for who, lines in sorted(of.items()):
        kept: list[list[str]] = []
        for line in reversed(lines[-LINES:]):  # what is near the end tells most
            if (text := budget.line(line.text)) is None:
                break
            kept.append([text, "traceback" if line.traceback else "script" if line.script else ""])
        if kept:
            kept.reverse()
            out.append({"who": who, "lines": kept, "left_out": len(lines) - len(kept)})
    return out


def _disk(state: object, budget: _Budget) -> dict[str, Any] | None:
    """A disk state that breaks the promise of a save (crash/description.py, story)."""
    if not isinstance(state, dict):
        return None
    events = _texts(state.get("events"), budget)
    return {
        "events": events[-EVENTS:],
        "earlier": max(0, len(events) - EVENTS),
        "crash": budget.text(state.get("crash", "")),
        "on": _texts(state.get("on"), budget),
        "lost": _texts(state.get("lost"), budget)[:EVENTS],
        "load": budget.text(state.get("load", "")),
        "promised": budget.text(state.get("promised", "")),
        "files": _files(state.get("files"), budget),
    }


def _files(files: object, budget: _Budget) -> list[dict[str, Any]]:
    """Each path: what lay there when the last save had returned, when the job crashed, and after.

    `same`: the crash and what went before it left it as that save had.
    """
    if not isinstance(files, dict):
        return []
    returned = _contents(files.get("returned"))
    before, after = _contents(files.get("as_called")), _contents(files.get("on_disk"))
    out = []
    for path in sorted(returned.keys() | before.keys() | after.keys())[:FILES]:
        saved, old, new = returned.get(path), before.get(path), after.get(path)
        out.append(
            {
                "path": budget.text(path),
                "returned": budget.text(saved[0]) if saved else "",
                "before": budget.text(old[0]) if old else "",
                "after": budget.text(new[0]) if new else "",
                "same": saved == old == new,
                "lost": old != new,
            }
        )
    return out


def _contents(listed: object) -> dict[str, tuple[str, str]]:
    """path -> (what lies there, digest)."""
    rows = listed if isinstance(listed, list) else []
    return {
        row[0]: (row[1], row[2])
        for row in rows
        if isinstance(row, list) and len(row) == 3 and all(isinstance(cell, str) for cell in row)
    }


def _texts(values: object, budget: _Budget) -> list[str]:
    return [budget.text(value) for value in values] if isinstance(values, list) else []
