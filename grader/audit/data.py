"""An audit's result for programs: JSON (schema grade-audit/v1), JUnit XML, and Markdown."""

from __future__ import annotations

import json
from shlex import join
from typing import Any
from xml.etree import ElementTree

from grader.audit import findings, report, words
from grader.audit.problems import LOSS, LOUD, SILENT, Outcome
from grader.audit.session import Audit


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
        "power_loss": None if audit.power is None else audit.power.says(report.states(audit)),
        "probe": {
            "seconds_per_step": round(audit.base.first.cost, 6),
            "every": audit.runner.every,
        },
        "findings": [vars(finding) for finding in audit.findings],
    }


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "fault": outcome.fault.title,
        "kind": outcome.fault.kind,
        "group": outcome.fault.group,
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


def junit_text(audit: Audit, command: list[str]) -> str:
    """A test case for each fault: with problems a failure, not judged an error, notes none."""
    found = [outcome.word for outcome in audit.outcomes]
    suite = ElementTree.Element(
        "testsuite",
        name=f"grade audit {join(command)}",
        tests=str(len(found)),
        failures=str(sum(word in (SILENT, LOUD, LOSS) for word in found)),
        errors=str(found.count("not judged")),
    )
    for outcome in audit.outcomes:
        case = ElementTree.SubElement(
            suite, "testcase", classname=outcome.fault.group, name=outcome.fault.title
        )
        if not outcome.happened:
            ElementTree.SubElement(case, "error", message=outcome.why)
        elif outcome.word in (SILENT, LOUD, LOSS):
            codes = ", ".join(problem.code for problem in outcome.problems)
            failure = ElementTree.SubElement(case, "failure", message=codes)
            titles = (words.of(problem.code, problem.what).title for problem in outcome.problems)
            failure.text = "\n".join(dict.fromkeys(titles))
    ElementTree.indent(suite)
    text = ElementTree.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def markdown(audit: Audit, command: list[str]) -> str:
    """A summary, such as for the page of a run on GitHub."""
    lines = ["## Audit of a training job", "", f"`{join(command)}`", ""]
    lines += [f"- {label}: {_plain(text)}" for label, text in report.facts(audit)]
    if audit.comparable:
        lines += [f"- {_plain(line)}" for line in findings.unfair(audit.comparable)]
    if audit.outcomes:
        columns, rows = report.table(audit.outcomes)
        lines += ["", "| fault | " + " | ".join([*columns, "most work lost"]) + " |"]
        lines.append("|---" * (len(columns) + 2) + "|")
        for row in rows:
            cells = [row.group, *(str(n or "") for n in row.counts), row.lost]
            lines.append("| " + " | ".join(cells) + " |")
    for finding in audit.findings:
        lines += ["", f"### {_plain(finding.title)}", ""]
        lines.append(f"`{finding.code}`: {findings.HARMS[finding.harm]}")
        lines += ["", f"- fault: {_plain(finding.faults[0])}"]
        lines += [f"- evidence: {_plain(line)}" for line in finding.evidence]
        lines += [f"- means: {_plain(finding.means)}", f"- fix: {_plain(finding.fix)}"]
    if audit.outcomes and not audit.findings:
        lines += ["", "Nothing found."]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Without characters that Markdown or HTML reads."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|" else c for c in text if c.isprintable())
