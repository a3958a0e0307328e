"""The same scripts under ckpt-chaos and under an audit: who finds what, and in what time.

The scripts are those of this project's tests, each with one mistake, and the template's.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from grader.audit.problems import NOTE
from grader.audit.trainers import fetching, running
from grader.audit.trainers.cases import SCRIPTS as SCRIPTS_FOLDER
from grader.audit.trainers.cases import Case
from grader.course.catalog import ROOT
from grader.errors import UsageError

JOBS = ROOT / "grader" / "tests" / "audit" / "jobs"
DIGEST = "digest_checkpoint.py"
ENVIRONMENT = "ckpt-chaos"
POINTS = 6  # crash points of ckpt-chaos; its default is 40
MODES = "before,torn,term"
VERDICTS = "HARD_FAIL,SILENT_DIVERGENCE,LOST_WORK"
LONGEST = 3600  # s for ckpt-chaos with one script
BEGIN, END = "<!-- ckpt-chaos: begin -->", "<!-- ckpt-chaos: end -->"
PAGE = ROOT / "docs" / "audit.md"


@dataclass(frozen=True)
class Script:
    name: str
    mistake: str
    command: str = ""
    result: str = "last.pt"  # the file of the final checkpoint, which ckpt-chaos compares

    @property
    def train(self) -> str:
        """ckpt-chaos doesn't make the folder, and an audit does."""
        command = self.command or f"python {JOBS}/{self.name}.py --out_dir {{out}}"
        return f"sh -c 'mkdir -p {{out}} && exec {command}'"


TEMPLATE = (
    f"python {ROOT}/templates/train_with_checkpoint.py --directory {{out}} --epochs 2 "
    "--samples 256 --workers 0 --save-every-steps 5"
)
SCRIPTS = (
    Script("in_place", "overwrites its only checkpoint"),
    Script("starts_over", "skips a checkpoint that it can't read, and starts over"),
    Script("no_optimizer", "doesn't load the optimizer"),
    Script("template", "none: the template", TEMPLATE, "step-000000000016-1/model.safetensors"),
)


def run(
    script: Script, programs: Path, folder: Path, budget: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Both tools on one script, one after the other."""
    settings = running.environment(folder, programs)
    where = folder / "work" / "ckpt-chaos"
    where.mkdir(parents=True, exist_ok=True)
    say(f"{script.name}: ckpt-chaos, {POINTS} crash points")
    theirs = _theirs(script, settings, where, folder)
    say(f"{script.name}: grade audit, at most {budget:.0f} s")
    name = f"{ENVIRONMENT}-{script.name}"
    case = Case(name, name, script.train, page="", promises="", reports=(ENVIRONMENT,))
    ours = running.run(case, where, folder, programs, budget)
    return {
        "date": date.today().isoformat(),
        "versions": ours["versions"],
        "ckpt-chaos": theirs,
        "audit": {
            "seconds": ours["seconds"],
            "faults": len(ours["faults"]),
            "findings": [one["code"] for one in ours["findings"] if one["harm"] != NOTE],
            "notes": [one["code"] for one in ours["findings"] if one["harm"] == NOTE],
            "components": [one["component"] for one in ours["findings"] if one["component"]],
        },
    }


def _theirs(script: Script, settings: dict[str, str], where: Path, folder: Path) -> dict[str, Any]:
    work, junit = where / script.name, where / f"{script.name}.xml"
    log = folder / "logs" / f"ckpt-chaos-{script.name}.log"
    log.parent.mkdir(exist_ok=True)
    shutil.rmtree(work, ignore_errors=True)
    for old in (junit, log):
        old.unlink(missing_ok=True)
    words = ["ckpt-chaos", "run", "--work", str(work), "--junit", str(junit), "--modes", MODES]
    result = f"python {SCRIPTS_FOLDER}/{DIGEST} {{out}}/{script.result}"
    words += ["--max-points", str(POINTS), "--result-cmd", result]
    words += ["--fail-on", VERDICTS, "--", *shlex.split(script.train)]
    began = time.monotonic()
    fetching.bounded(words, seconds=LONGEST, cwd=where, environment=settings, log=log)
    seconds = round(time.monotonic() - began)
    found = verdicts(junit.read_text()) if junit.exists() else None
    if found is None:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise UsageError(f"{script.name}: ckpt-chaos gave no result: {''.join(last)}")
    return {"seconds": seconds, **found}


def verdicts(junit: str) -> dict[str, Any] | None:
    """How many crash points had which verdict; None if it could judge nothing."""
    cases = ElementTree.fromstring(junit).findall("testcase")
    if any(case.find("error") is not None for case in cases):
        return None
    failures = [case.find("failure") for case in cases]
    words = [f.get("message", "").partition(":")[0] for f in failures if f is not None]
    passed = len(cases) - len(words)
    return {"points": len(cases), "verdicts": Counter(words) | {"PASS": passed}}


def table(results: dict[str, Any]) -> list[str]:
    """The lines between the markers of docs/audit.md."""
    if not results:
        return []
    some = next(iter(results.values()))
    versions = ", ".join(f"{name} {version}" for name, version in some["versions"].items())
    lines = [
        "",
        f"Written by `python -m grader.audit.trainers --chaos --write`, {some['date']}: "
        f"{versions}; {POINTS} crash points of ckpt-chaos in each script.",
        "",
        "| the script's mistake | ckpt-chaos | time | an audit | time |",
        "|---|---|---|---|---|",
    ]
    for script in SCRIPTS:
        if script.name not in results:
            continue
        result = results[script.name]
        theirs, ours = result["ckpt-chaos"], result["audit"]
        found = ", ".join(f"{n} {word}" for word, n in theirs["verdicts"].items() if n)
        codes = ", ".join(f"`{code}`" for code in dict.fromkeys(ours["findings"])) or "nothing"
        parts = ", ".join(dict.fromkeys(ours["components"]))
        lines.append(
            f"| {script.mistake} | {found} | {theirs['seconds']} s "
            f"| {codes}{f' ({parts})' if parts else ''}; {ours['faults']} faults "
            f"| {ours['seconds']} s |"
        )
    return [*lines, ""]


def inserted(page: str, results: dict[str, Any]) -> str:
    """The page, with the new table between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or END not in page:
        raise UsageError(f"{PAGE.name} has no {BEGIN} and {END}")
    return "\n".join([before + BEGIN, *table(results), END]) + after
