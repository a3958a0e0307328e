"""An audit as one HTML page, with a timeline for each fault: self-contained, as all our pages."""

from __future__ import annotations

from datetime import datetime
from itertools import count
from pathlib import Path
from shlex import join
from typing import Any

from grader.audit import findings, report, words
from grader.audit.problems import LOSS, LOUD, SILENT, Outcome
from grader.audit.session import Audit
from grader.report.html import render

HERE = Path(__file__).resolve().parent
# as the page's style knows them
CLASSES = {SILENT: "fail", LOUD: "fail", LOSS: "blocked", "fine": "pass"}


def page(audit: Audit, command: list[str], made: datetime | None = None) -> str:
    number = count(1)
    total = len(audit.base.first.steps)
    columns, rows = report.table(audit.outcomes)
    return render(
        HERE / "page.html",
        command=join(command),
        audit=audit,
        facts=report.facts(audit),
        unfair=findings.unfair(audit.comparable) if audit.comparable else [],
        columns=columns,
        rows=rows,
        findings=audit.findings,
        harms=findings.HARMS,
        steps=words.steps,
        classes=CLASSES,
        runs=[(outcome, _run(outcome, total)) for outcome in audit.outcomes],
        made=(made or datetime.now()).astimezone().strftime("%Y-%m-%d %H:%M %z"),
        new_id=lambda: f"figure-{next(number)}",
    )


def _run(outcome: Outcome, total: int) -> dict[str, Any]:
    """A run's lives, as report/page_figures.py draws them."""
    lanes: list[dict[str, Any]] = []
    reached = 0
    for number, lane in enumerate(outcome.lanes):
        first = reached if lane.first is None else lane.first
        to = first + lane.steps
        marks = [{"kind": "save", "step": s, "text": f"save after step {s}"} for s in lane.saves]
        if number and lane.first is not None:
            marks.append({"kind": "resume", "step": first, "text": f"resumed after step {first}"})
        if number < len(outcome.lanes) - 1:
            marks.append({"kind": "fault", "step": to, "text": outcome.fault.title})
        again = min(to, max(first, reached)) if number else first
        lanes.append(
            {"life": number, "who": f"life {number + 1}", "from": first, "again": again, "to": to}
            | {"end": lane.end, "marks": marks}
        )
        reached = to
    return {"last": total, "lanes": lanes}
