"""What each process of a life did, as one lane of a timeline."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import Any

from grader.harness.preemption import Preempt, Sent
from grader.harness.run import WHY_ENDED
from grader.report.history.limits import MARKS, STEPS
from grader.report.history.safe_text import Budget


@dataclass
class ProcessEvents:
    """A life's process, with those of its events that are what they should be."""

    life: Any
    events: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, life: Any) -> ProcessEvents:
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


def lane_of(
    who: str, life: int, one: ProcessEvents, reached: int, budget: Budget
) -> dict[str, Any]:
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


def _marks(one: ProcessEvents, budget: Budget) -> list[dict[str, Any]]:
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
    if not isinstance(fault, Preempt):  # its signals have their own marks
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


def _end(one: ProcessEvents, budget: Budget) -> tuple[str, str]:
    """(kind, text) of how a process ended: finished, killed, left or failed."""
    life = one.life
    if life.ended:
        return "failed", f"ended by the grader: {WHY_ENDED.get(life.ended, life.ended)}"
    if life.status < 0:
        name = _name(-life.status)
        fault = life.fault is not None and one.first("fault") is not None
        return ("killed", f"{name}, the fault") if fault else ("failed", f"died of {name}")
    if life.preempted:
        return "left", f"exited with status {life.status}: run me again"
    raised = life.first("crash")
    if life.status:
        if raised and isinstance(raised.get("type"), str):
            return "failed", f"raised {budget.text(raised['type'], 60)}"
        return "failed", f"exited with status {life.status}"
    return ("finished", "finished") if life.first("end") else ("failed", "left before the end")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
