"""What each life of a job on a cluster did, as the grader's own witness saw it."""

from __future__ import annotations

from typing import Any

from grader.report.history.limits import MARKS
from grader.report.history.safe_text import Budget


def cluster_lane(
    number: int, events: list[dict[str, Any]], reached: int, budget: Budget
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
        kind, end = "left", f"exited with status {left['status']}"
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
