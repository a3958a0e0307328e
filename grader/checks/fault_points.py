"""Faults in a save: which of them are tried, and what each is called in a message."""

from __future__ import annotations

from collections import Counter

from grader.harness.faults import Fault
from grader.harness.lab import Lab
from grader.verdicts import NotSelected, Struck


def moment(fault: Fault, events: list[str]) -> str:
    if fault.event is not None and fault.event < len(events):
        return f"just before: {events[fault.event]}"
    return (
        f"before its event {fault.event}"
        if fault.event is not None
        else f"when a file had reached byte {fault.byte}"
    )


def selected(lab: Lab, faults: list[Fault]) -> list[Fault]:
    """All, or the one that --fault asks for."""
    if lab.only is None:
        return faults
    chosen = [f for f in faults if f in lab.only]
    if not chosen:
        raise NotSelected
    return chosen


CALLED = {
    "write": "write_checkpoint",
    "best": "keep_best",
    "prune": "prune",
    "due": "should_save",
    "read": "read_latest",
}


def under_way(plan: list[dict], events: list[dict]) -> list[tuple[str, str]]:
    """What a life that followed the plan (workload/ex01/storage_plan.py) was doing at its end: the
    call, and the faults that had struck in the same directory.
    """
    begun = Counter(str(e.get("point")) for e in events if e["event"] == "op")
    now = next((e.get("point") for e in reversed(events) if e["event"] == "point"), None)
    at = next((point["at"] for point in plan if point["id"] == now), None)
    done = [op for p in plan if p["at"] == at for op in p["ops"][: begun[p["id"]]]]
    if not done:
        return []
    *before, last = done
    step = f" of step {last['step']}" if "step" in last else ""
    called = CALLED.get(last["op"])
    return [
        *(Struck(_of_json(op["fault"]).story) for op in before if op.get("fault")),
        *([("called", f"{called}{step}")] if called else []),
    ]


def _of_json(fault: dict) -> Fault:
    return Fault(fault["kind"], fault["step"], fault.get("event"), fault.get("byte"))
