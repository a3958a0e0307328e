"""Composes a task's message: evidence, then a question, then how to see it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grader.harness.lab import course_paths
from grader.report import logs
from grader.verdicts import BLOCKED, PASS, Outcome, TaskResult

if TYPE_CHECKING:
    from grader.engine import Grading

# causes that a task's other checks would only meet as well, after waiting for them
HANGS = ("limit:", "deadlock:")
LABEL = 11  # width of the labels' column; a longer label has a space behind it all the same


def compose(
    result: TaskResult,
    problems: list[Outcome],
    blockers: list[str],
    told: dict[str, str],
    grading: Grading,
) -> None:
    """Fill in `message` and `evidence`. One cause is told once: in full where it first shows."""
    log = logs.keep(grading, result.id, problems[0].finding if problems and not blockers else None)
    if result.verdict == PASS:
        return
    if result.verdict == BLOCKED:
        rows = [("builds on", f"{', '.join(blockers)}: get that to pass first")]
        _set(result, rows, {"blocked_by": blockers})
        return
    if not problems:
        _set(result, [("nothing", "no check was selected")], {})
        return
    # a check that hangs ends those behind it (engine.py); which of them had been decided by then is
    # chance: not told
    hangs = next(
        (n for n, o in enumerate(problems) if o.finding.cause.startswith(HANGS)), len(problems)
    )
    first, *others = problems[: hangs + 1]
    finding = first.finding
    replay = grading.replay(first)
    evidence = {
        "check": first.check,
        "cause": finding.cause,
        "seed": grading.seed,
        "fault": finding.fault,
        "replay": replay,
        **finding.data,
    }
    evidence.pop("log", None)  # it lies in a folder that is removed
    if (elsewhere := told.get(finding.cause)) and finding.cause == "import":
        _set(result, [("same cause", f"as in {elsewhere}")], evidence)
        return
    told.setdefault(finding.cause, result.id)
    rows = (
        [("check", first.title), *finding.rows] if finding.cause != "import" else list(finding.rows)
    )
    same = [o for o in others if o.finding.cause == finding.cause and o.title != first.title]
    different = {o.finding.cause: o for o in reversed(others) if o.finding.cause != finding.cause}
    if same and finding.cause != "import":
        titles = list(dict.fromkeys(o.title for o in same))
        rows.append(("also", f"{len(titles)} more for this cause: " + "; ".join(titles)))
    for other in reversed(different.values()):
        rows.append(("and", f"{other.title}: {_gist(other)}"))
    rows.append(("replay", replay))
    if log:
        rows.append(("log", log))
        evidence["log"] = log
    rows = [(label, _printable(course_paths(text, grading.bench))) for label, text in rows]
    evidence["rows"] = [list(row) for row in rows]
    evidence["checks_failed"] = [o.check for o in problems]
    _set(result, rows, evidence)


def _gist(outcome: Outcome) -> str:
    """One line of a further finding: what befell the job, and what was different, found, or raised;
    or as it says itself.
    """
    if gist := outcome.finding.data.get("gist"):
        return gist
    rows = dict(outcome.finding.rows)
    befell = (
        f"damaged {rows['damaged']}: "
        if "damaged" in rows
        else f"{rows['fault']}: "
        if "fault" in rows and "found" in rows
        else ""
    )
    for label in ("error", "found", "different", "happened", "ended", "resumed", "returned"):
        if label in rows:
            return befell + rows[label]
    return next(iter(rows.values()), "")


def _printable(text: str) -> str:
    """A student's exception may hold anything: no control character reaches a terminal or a
    report.
    """
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def _set(result: TaskResult, rows: list[tuple[str, str]], evidence: dict) -> None:
    result.evidence = {"rows": [list(row) for row in rows], **evidence}
    result.message = "\n".join(labelled(label) + text for label, text in rows)


def labelled(label: str) -> str:
    return f"{label:<{LABEL - 1}} "
