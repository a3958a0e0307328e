"""Composes a task's message: evidence, then a question, then how to reproduce it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

from grader.verdicts import HANGS, PASS, Finding, Outcome

LABEL = 11  # width of the labels' column; a longer label still gets one space after it


@dataclass
class Message:
    """A task's message: rows of (label, text), and the same as data."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> dict[str, Any]:
        """The evidence, with the rows as they are read."""
        return {"rows": [list(row) for row in self.rows], **self.evidence} if self.rows else {}

    def __str__(self) -> str:
        return "\n".join(labelled(label) + text for label, text in self.rows)


class Problem(Protocol):
    """An outcome that isn't a pass: it has a finding."""

    check: str
    title: str
    task: str
    verdict: str
    finding: Finding
    runs: list[Any]


def is_problem(outcome: Outcome) -> TypeGuard[Problem]:
    return outcome.verdict != PASS


def blocked(blockers: list[str]) -> Message:
    rows = [("builds on", f"{', '.join(blockers)}: get that to pass first")]
    return Message(rows, {"blocked_by": blockers})


def nothing_selected() -> Message:
    return Message([("nothing", "no check was selected")])


def failed(
    problems: list[Problem],
    explained: dict[str, str],
    *,
    task_id: str,
    seed: int,
    replay: str,
    debug: str,
    log: str,
    printed: list[tuple[str, str]],
    translate: Callable[[str], str],
) -> Message:
    """The message for a task that isn't passed. A cause is explained in full only once.

    problems   the outcomes of its checks that didn't pass, in the order of the checks
    explained  cause -> the task that explained it; this task's causes are added
    printed    what the processes printed next to the fault
    translate  turns a text's paths into those that the student knows
    """
    # a check that hangs ends those after it (engine.py); chance decides which of them had finished,
    # so leave them out
    hangs = next((n for n, o in enumerate(problems) if o.finding.code in HANGS), len(problems))
    first, *others = problems[: hangs + 1]
    finding = first.finding
    evidence = {
        "check": first.check,
        "code": finding.code,
        "about": finding.about,
        "cause": finding.cause,
        "seed": seed,
        "fault": finding.fault,
        "replay": replay,
        **{name: value for name, value in finding.data.items() if name not in OF_PRINTED},
    }
    if (elsewhere := explained.get(finding.cause)) and finding.code == "import":
        return Message([("same cause", f"as in {elsewhere}")], evidence)
    explained.setdefault(finding.cause, task_id)
    rows = (
        [("check", first.title), *finding.rows] if finding.code != "import" else list(finding.rows)
    )
    rows += [*printed, *finding.advice]
    same = [o for o in others if o.finding.cause == finding.cause and o.title != first.title]
    different = {o.finding.cause: o for o in reversed(others) if o.finding.cause != finding.cause}
    if same and finding.code != "import":
        titles = list(dict.fromkeys(o.title for o in same))
        rows.append(("also", f"{len(titles)} more for this cause: " + "; ".join(titles)))
    for titles, gist in _grouped(list(reversed(different.values()))):
        rows.append(("and", f"{'; '.join(titles)}: {gist}"))
    rows.append(("replay", replay))
    if debug:
        rows.append(("debug", debug))
    if log:
        rows.append(("log", log))
        evidence["log"] = log
    evidence["checks_failed"] = [o.check for o in problems]
    evidence["causes"] = _causes(first, *others)
    return Message([(label, _printable(translate(text))) for label, text in rows], evidence)


def _causes(*problems: Problem) -> list[dict[str, str]]:
    """Each cause once, with the first check that met it."""
    first = {o.finding.cause: o for o in reversed(problems)}
    return [
        {"code": o.finding.code, "about": o.finding.about, "check": o.title}
        for o in problems
        if first[o.finding.cause] is o
    ]


def _grouped(further: list[Problem]) -> list[tuple[list[str], str]]:
    """(titles, what they have in common) of further findings; those that read alike are one.

    Several causes may end in the same line: an exception in one place, met by many questions.
    """
    titles: dict[str, list[str]] = {}
    gists: dict[str, str] = {}
    for one in further:
        core = one.finding.core
        gists.setdefault(core, _in_a_line(one.finding))
        titles.setdefault(core, []).append(one.title)
    return [(list(dict.fromkeys(titles[core])), gists[core]) for core in titles]


OF_PRINTED = ("window", "printed_by")  # which printed lines belong to the finding
EXPECTED = 60  # characters of what was expected, behind what was found


def _in_a_line(finding: Finding) -> str:
    """The gist, with the place of a crash, or with what was expected instead."""
    if finding.code == "crashed" and (place := finding.about.partition(":")[2]):
        return f"{finding.gist}, at {place}"
    expected = next((text for label, text in finding.rows if label == "expected"), "")
    if expected and len(expected) <= EXPECTED:
        return f"{finding.gist}; expected: {expected}"
    return finding.gist


def _printable(text: str) -> str:
    """`text` without control characters: a student's exception may hold anything."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def labelled(label: str) -> str:
    return f"{label:<{LABEL - 1}} "
