"""An audit's result for people, on a terminal."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from grader.audit import findings, words
from grader.audit.faults import POWER
from grader.audit.findings import HARMS, Finding
from grader.audit.problems import LOSS, LOUD, NOTE, SILENT, Outcome
from grader.audit.session import Audit
from grader.report.logs import escaped

COLUMNS = ("fine", SILENT, LOUD, LOSS, NOTE, "not judged")
RARE = (NOTE, "not judged")  # columns that are left out where they are empty
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
    for label, text in facts(audit):
        _row(out, label, text)
    if audit.comparable:
        lines = findings.unfair(audit.comparable)
        for label, line in zip(["varies", "", "", ""], lines, strict=False):
            _row(out, label, line)
    if audit.outcomes:
        _show_table(out, audit.outcomes)
    for outcome in audit.outcomes:
        if not outcome.happened:
            _row(out, "not judged", f"{outcome.fault.title}: {outcome.why}")
    for finding in audit.findings:
        _show_finding(out, finding)
    if audit.untried:
        more = "more " if audit.outcomes else ""
        left = f"{len(audit.untried)} {more}fault{'s' * (len(audit.untried) != 1)}"
        _row(out, "not tried", f"{left}; with a larger --budget, more are tried")
    if audit.outcomes and not audit.findings:
        tried = sum(outcome.happened for outcome in audit.outcomes)
        out.print(Text(f"\nNothing found under {tried} fault{'s' * (tried != 1)}.", "bold green"))


def facts(audit: Audit) -> list[tuple[str, str]]:
    """What was seen of the undisturbed run, as labels and texts."""
    base = audit.base
    if not base.ranks:
        return []
    steps, saves = len(base.first.steps), base.first.saves()
    ranks = f" on each of {len(base.ranks)} ranks" if len(base.ranks) > 1 else ""
    at = [save.step for save in saves]
    shown = ", ".join(map(str, at[:8])) + (", ..." if len(at) > 8 else "")
    found = [
        ("seen", f"{words.steps(steps)}{ranks} in {base.seconds:.1f} s"),
        (
            "saves",
            f"after step {shown}" if at else "none: nothing was written below {out} after a step",
        ),
        ("probe", probe_cost(audit)),
    ]
    if audit.comparable and audit.comparable.reproducible:
        found.append(
            ("repeatable", "two undisturbed runs are identical, bit for bit, at every step")
        )
    if audit.power:
        found.append(("power loss", audit.power.says(states(audit))))
    return found


def states(audit: Audit) -> int:
    """Disk states of a power loss that were tried."""
    return sum(outcome.fault.kind == POWER for outcome in audit.outcomes)


def probe_cost(audit: Audit) -> str:
    """What the probe takes, and whether it looks at every step."""
    per_step = 1000 * audit.base.first.cost
    text = f"{per_step:.1f} ms per step"
    if audit.runner.every > 1:
        text += (
            f", more than a tenth of a step: all runs after the first record one step in "
            f"{audit.runner.every} and the steps after a save, and only count the others"
        )
    return text


@dataclass(frozen=True)
class Row:
    """Of the table: a kind of faults, and how many had which outcome."""

    group: str
    counts: list[int]
    lost: str


def table(outcomes: list[Outcome]) -> tuple[list[str], list[Row]]:
    """The outcomes that are columns, and a row for each kind of faults."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.fault.group, []).append(outcome)
    columns = [c for c in COLUMNS if c not in RARE or any(o.word == c for o in outcomes)]
    rows = []
    for group, those in groups.items():
        counts = [sum(o.word == column for o in those) for column in columns]
        rows.append(Row(group, counts, work_lost(those)))
    return columns, rows


def _show_table(out: Console, outcomes: list[Outcome]) -> None:
    columns, rows = table(outcomes)
    width = max(len(row.group) for row in rows) + 2
    out.print()
    heads = "".join(f"{c:>{len(c) + 2}}" for c in columns)
    out.print(Text(f"{'fault':<{width}}{heads}  most work lost", "bold"))
    for row in rows:
        counts = "".join(
            f"{number or '.':>{len(column) + 2}}"
            for column, number in zip(columns, row.counts, strict=True)
        )
        out.print(Text(f"{row.group:<{width}}{counts}  {row.lost}"))


def work_lost(outcomes: list[Outcome]) -> str:
    """The most steps of any of these outcomes, and the most seconds."""
    steps = [o.lost for o in outcomes if o.lost is not None]
    seconds = [o.seconds_lost for o in outcomes if o.seconds_lost is not None]
    if not steps:
        return "-"
    text = words.steps(max(steps))
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
    _row(out, "fix", finding.fix)
    if more := finding.faults[1:]:
        shown = "; ".join(more[:SHOWN]) + ("; ..." if len(more) > SHOWN else "")
        _row(out, "also", f"under {len(more)} more fault{'s' * (len(more) != 1)}: {shown}")


def _row(out: Console, label: str, text: str) -> None:
    lines = textwrap.wrap(text, max(30, out.width - LABEL - 3), break_on_hyphens=False) or [""]
    for number, line in enumerate(lines):
        out.print(Text(f"  {label if number == 0 else '':<{LABEL}} {line}"))
