"""docs/trainers.md, made of the list of cases and the kept results."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grader.audit.faults import GROUPS
from grader.audit.problems import LOSS, LOUD, NOTE, SILENT
from grader.audit.trainers.cases import HERE, Case, Trainers
from grader.course.catalog import ROOT
from grader.files import write_atomically

PAGE = ROOT / "docs" / "trainers.md"
RESULTS = HERE / "results.json"
WORST_FIRST = (SILENT, LOUD, LOSS, NOTE, "fine")
NONE = "-"
INTRODUCTION = """\
# Other people's trainers, audited

`python -m grader.audit.trainers` fetched these trainers and audited each of them with a small model
on a CPU ([how an audit works](audit.md)). Each was resumed as its own documentation says. A finding
isn't a bug report: most of these projects don't promise what the audit asks for, and this page says
what they do promise. Each finding was checked by hand.

The table shows the worst outcome for each kind of fault, and how many of the tried faults had it:

| outcome | meaning |
|---|---|
| fine | it resumes from its newest complete checkpoint and ends like the undisturbed run |
| silent | it resumes but computes something else; at most a warning says so |
| loud | it doesn't come back: it ends with an error, or hangs |
| loss | it comes back but loses more work than necessary |
| note | worth knowing, such as exit status 0 after a preemption |
| - | not tried in the time given, or impossible: a checkpoint of one file can't lack a file |
"""


def load(path: Path = RESULTS) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def keep(
    results: dict[str, Any], kind: str, names: Iterable[str], name: str, result: dict[str, Any]
) -> None:
    """Add a result, and write them all, in the order of the list, without those that left it."""
    every = {**results.get(kind, {}), name: result}
    results[kind] = {known: every[known] for known in names if known in every}
    write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")


def text(trainers: Trainers, results: dict[str, Any]) -> str:
    """The whole page."""
    cases = [case for case in trainers.cases.values() if case.name in results["trainers"]]
    found = results["trainers"]
    lines = [INTRODUCTION, *table(cases, found), ""]
    for case in cases:
        lines += [*section(case, found[case.name]), ""]
    if trainers.absent:
        lines += ["## Not audited", ""]
        lines += [f"- {absent.title}: {absent.why}" for absent in trainers.absent] + [""]
    lines += AGAIN.splitlines()
    return "\n".join(lines) + "\n"


AGAIN = """\
## Run it yourself

```console
$ python -m grader.audit.trainers --list
$ python -m grader.audit.trainers --folder /tmp/trainers --only nanogpt
$ python -m grader.audit.trainers --folder /tmp/trainers --write   # everything; writes this page
```

The command says what it will fetch and run. It puts everything below the folder that you name, with
the whole result of each audit. This page keeps its faults and findings in
[results.json](../grader/audit/trainers/results.json)."""


def table(cases: list[Case], found: dict[str, Any]) -> list[str]:
    """A row for each kind of fault, a column for each trainer."""
    groups = {fault["group"] for case in cases for fault in found[case.name]["faults"]}
    titles = list(GROUPS.values())
    ordered = sorted(groups, key=lambda g: (titles.index(g) if g in titles else 3.5, g))
    lines = ["| fault | " + " | ".join(case.title for case in cases) + " |"]
    lines.append("|---" * (len(cases) + 1) + "|")
    for group in ordered:
        cells = [
            cell([f["outcome"] for f in found[case.name]["faults"] if f["group"] == group])
            for case in cases
        ]
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    return lines


def cell(outcomes: list[str]) -> str:
    """The worst outcome, and how many of these have it."""
    judged = [outcome for outcome in outcomes if outcome != "not judged"]
    if not judged:
        return NONE
    worst = min(judged, key=WORST_FIRST.index)
    number = judged.count(worst)
    shown = worst if worst in ("fine", "note") else f"**{worst}**"
    return shown if number == len(judged) else f"{shown} {number}/{len(judged)}"


def section(case: Case, result: dict[str, Any]) -> list[str]:
    """What was audited, what it promises, and its findings."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    at = f", commit {case.commit[:12]}" if case.commit else ""
    saves = ", ".join(map(str, result["saves"]))
    more = f", and {result['untried']} more weren't for lack of time" if result["untried"] else ""
    lines = [
        f"## {case.title}",
        "",
        f"{case.uses}. {versions}{at}; {result['date']}. "
        f"{result['steps']} steps, saves after step {saves}; "
        f"{len(result['faults'])} faults were tried{more}.",
        "",
        f"[Promised]({case.page}): {case.promises}.",
        "",
    ]
    if not result["reproducible"]:
        lines += [f"Two undisturbed runs differ: {'; '.join(result['unfair'])}.", ""]
    if result["findings"]:
        lines += ["| finding | harm | under | evidence |", "|---|---|---|---|"]
    for finding in result["findings"]:
        number = len(finding["faults"])
        under = f"{number} fault{'s' * (number != 1)}"
        seen = [*finding["evidence"][:2], *finding["printed"][-1:]]
        evidence = "; ".join(seen).replace("|", "\\|")
        title = f"{finding['title']} (`{finding['code']}`)"
        lines.append(f"| {title} | {finding['harm']} | {under} | {evidence} |")
    if not result["findings"]:
        lines.append("Nothing found.")
    if case.checked:
        lines += ["", f"Checked by hand: {case.checked}"]
    return lines
