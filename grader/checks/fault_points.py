"""Faults in a save: which of them are tried, and what each is called in a message."""

from __future__ import annotations

from grader.harness.faults import Fault
from grader.harness.lab import Lab
from grader.verdicts import NotSelected


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
