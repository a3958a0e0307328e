"""An audit's result: for people, as JSON (schema grade-audit/v1), and as JUnit XML."""

from __future__ import annotations

import json
import textwrap
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.text import Text

from grader.audit import findings
from grader.audit.faults import POWER
from grader.audit.findings import HARMS, Finding
from grader.audit.problems import LOSS, LOUD, NOTE, SILENT, Outcome
from grader.audit.session import Audit
from grader.report.logs import escaped

COLUMNS = ("fine", SILENT, LOUD, LOSS, "not judged")
STYLE = {SILENT: "bold red", LOUD: "bold red", LOSS: "bold yellow", NOTE: "bold"}
LABEL = 10
SHOWN = 3  # faults of a finding


def exit_status(audit: Audit, fail_on: str) -> int:
    """0 nothing found, 1 findings of the kind asked for, 3 nothing could be judged."""
    harms = {finding.harm for finding in audit.findings}
    if fail_on == "silent" and SILENT in harms:
        return 1
    if fail_on == "any" and harms & {SILENT, LOUD, LOSS}:
        return 1
    return 0 if any(outcome.happened for outcome in audit.outcomes) else 3


def show(out: Console, audit: Audit) -> None:
    _show_base(out, audit)
    if audit.outcomes:
        _show_table(out, audit.outcomes)
    for outcome in audit.outcomes:
        if not outcome.happened:
            _row(out, "not judged", f"{outcome.fault.title}: {outcome.why}")
    for finding in audit.findings:
        _show_finding(out, finding)
    if audit.power:
        _row(out, "power loss", audit.power.says(_states(audit)))
    if audit.untried:
        _row(out, "not tried", f"{len(audit.untried)} more faults; a larger --budget tries them")
    if audit.outcomes and not audit.findings:
        tried = sum(outcome.happened for outcome in audit.outcomes)
        out.print(Text(f"\nNothing found under {tried} faults.", "bold green"))


def _states(audit: Audit) -> int:
    """Disk states of a power loss that were tried."""
    return sum(outcome.fault.kind == POWER for outcome in audit.outcomes)


def _show_base(out: Console, audit: Audit) -> None:
    base = audit.base
    if not base.ranks:
        return
    steps, saves = len(base.first.steps), base.first.saves()
    ranks = f" on each of {len(base.ranks)} ranks" if len(base.ranks) > 1 else ""
    at = [save.step for save in saves]
    shown = ", ".join(map(str, at[:8])) + (", ..." if len(at) > 8 else "")
    _row(out, "seen", f"{steps} steps{ranks} in {base.seconds:.1f} s")
    _row(out, "saves", f"after step {shown}" if at else "no file event below {out} after a step")
    _row(out, "probe", probe_cost(audit))
    if audit.comparable is None:
        return
    if audit.comparable.reproducible:
        _row(out, "fair", "two undisturbed runs are equal, bit for bit, at every step")
    for label, line in zip(["unfair", "", "", ""], findings.unfair(audit.comparable), strict=False):
        _row(out, label, line)


def probe_cost(audit: Audit) -> str:
    """What the probe takes, and whether it looks at every step."""
    per_step = 1000 * audit.base.first.cost / max(1, len(audit.base.first.steps))
    text = f"{per_step:.1f} ms a step"
    if audit.runner.every > 1:
        text += (
            f", too much for the job's steps: after the first run it looks at every "
            f"{audit.runner.every}th step and at those after a save; others are only counted"
        )
    return text


def _show_table(out: Console, outcomes: list[Outcome]) -> None:
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.fault.group, []).append(outcome)
    width = max(map(len, groups)) + 2
    columns = [c for c in COLUMNS if c != "not judged" or any(not o.happened for o in outcomes)]
    out.print()
    heads = "".join(f"{c:>{len(c) + 2}}" for c in columns)
    out.print(Text(f"{'fault':<{width}}{heads}  most work lost", "bold"))
    for group, those in groups.items():
        counts = ""
        for column in columns:
            number = sum(o.word == column for o in those)
            counts += f"{number or '.':>{len(column) + 2}}"
        out.print(Text(f"{group:<{width}}{counts}  {work_lost(those)}"))


def work_lost(outcomes: list[Outcome]) -> str:
    """The most steps of any of these outcomes, and the most seconds."""
    steps = [o.lost for o in outcomes if o.lost is not None]
    seconds = [o.seconds_lost for o in outcomes if o.seconds_lost is not None]
    if not steps:
        return "-"
    text = f"{max(steps)} step{'s' * (max(steps) != 1)}"
    return f"{text}, {max(seconds):.2g} s" if seconds else text


def _show_finding(out: Console, finding: Finding) -> None:
    head = Text.assemble(
        "\n", (finding.title, STYLE[finding.harm]), f"   [{finding.code}: {HARMS[finding.harm]}]"
    )
    out.print(head)
    _row(out, "fault", finding.faults[0])
    for line in finding.evidence:
        _row(out, "evidence", line)
    for line in finding.printed:
        _row(out, "printed", escaped(line))
    _row(out, "means", finding.means)
    _row(out, "mend", finding.mend)
    if more := finding.faults[1:]:
        shown = "; ".join(more[:SHOWN]) + ("; ..." if len(more) > SHOWN else "")
        _row(out, "also", f"under {len(more)} more: {shown}")


def _row(out: Console, label: str, text: str) -> None:
    lines = textwrap.wrap(text, max(30, out.width - LABEL - 3), break_on_hyphens=False) or [""]
    for number, line in enumerate(lines):
        out.print(Text(f"  {label if number == 0 else '':<{LABEL}} {line}"))


def as_json(audit: Audit, command: list[str]) -> dict[str, Any]:
    comparable = audit.comparable
    return {
        "schema": "grade-audit/v1",
        "command": command,
        "seed": audit.seed,
        "steps": len(audit.base.first.steps),
        "ranks": len(audit.base.ranks),
        "seconds": round(audit.base.seconds, 3),
        "saves": [save.step for save in audit.base.first.saves()],
        "reproducible": None if comparable is None else comparable.reproducible,
        "unfair": [] if comparable is None else findings.unfair(comparable),
        "faults": [_outcome(outcome) for outcome in audit.outcomes],
        "untried": [fault.title for fault in audit.untried],
        "power_loss": None if audit.power is None else audit.power.says(_states(audit)),
        "probe": {
            "seconds_per_step": round(
                audit.base.first.cost / max(1, len(audit.base.first.steps)), 6
            ),
            "every": audit.runner.every,
        },
        "findings": [vars(finding) for finding in audit.findings],
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "fault": outcome.fault.title,
        "kind": outcome.fault.kind,
        "outcome": outcome.word,
        "why": outcome.why,
        "steps_done": outcome.reached,
        "resumed_after": outcome.resumed,
        "steps_lost": outcome.lost,
        "seconds_lost": _rounded(outcome.seconds_lost),
        "seconds_to_restart": _rounded(outcome.restart),
        "status": outcome.status,
        "identical": outcome.identical,
        "problems": [
            {
                "code": problem.code,
                "step": problem.difference.step if problem.difference else None,
                "different": problem.difference.names if problem.difference else [],
                "same": list(problem.difference.same) if problem.difference else [],
                "text": problem.text,
            }
            for problem in outcome.problems
        ],
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def json_text(audit: Audit, command: list[str]) -> str:
    return json.dumps(as_json(audit, command), indent=2) + "\n"


def junit_text(audit: Audit) -> str:
    """A test case for each fault: with problems a failure, not judged an error, notes none."""
    words = [outcome.word for outcome in audit.outcomes]
    suite = ElementTree.Element(
        "testsuite",
        name="grade audit",
        tests=str(len(words)),
        failures=str(sum(word in (SILENT, LOUD, LOSS) for word in words)),
        errors=str(words.count("not judged")),
    )
    for outcome in audit.outcomes:
        case = ElementTree.SubElement(
            suite, "testcase", classname=outcome.fault.group, name=outcome.fault.title
        )
        if not outcome.happened:
            ElementTree.SubElement(case, "error", message=outcome.why)
        elif outcome.word != "fine":
            codes = ", ".join(problem.code for problem in outcome.problems)
            ElementTree.SubElement(case, "failure", message=codes)
    ElementTree.indent(suite)
    text = ElementTree.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'
