"""Runs the audit of a case as a process of its own, and keeps what it found."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from grader.audit.trainers import fetching
from grader.audit.trainers.cases import Case
from grader.course.catalog import ROOT
from grader.errors import UsageError

SPARE = 600  # s that an audit may take beyond its budget: it ends what it began
LINES = 12  # of a failed audit's output
SEED = "1"  # draws the same faults each time
# the grader of this tree, without a PYTHONPATH that the job would inherit
GRADE = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from grader.cli import main; main()"
VERSIONS = """
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""


def environment(folder: Path, programs: Path | None) -> dict[str, str]:
    """Of an audit: `python` is the case's, and nothing is written or fetched elsewhere."""
    (folder / "home").mkdir(exist_ok=True)
    (folder / "t").mkdir(exist_ok=True)
    path = [str(programs or Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {
        "PATH": os.pathsep.join(path),
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "t"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def command(case: Case, budget: float, result: Path) -> list[str]:
    words = [sys.executable, "-c", GRADE, "audit", "--budget", f"{budget:.0f}s", "--seed", SEED]
    words += ["--fail-on", "never", "--json", str(result)]
    if case.resume:
        words += ["--resume-command", case.words(case.resume)]
    return [*words, "--", *shlex.split(case.words(case.train))]


def run(case: Case, where: Path, folder: Path, programs: Path | None, budget: float) -> Any:
    """Audit it; what is kept of its result."""
    results = folder / "results"
    results.mkdir(exist_ok=True)
    result, log = results / f"{case.name}.json", folder / "logs" / f"audit-{case.name}.log"
    log.parent.mkdir(exist_ok=True)
    for old in (result, log):
        old.unlink(missing_ok=True)
    settings = environment(folder, programs)
    if case.prepare:
        words = shlex.split(case.words(case.prepare))
        status = fetching.bounded(words, seconds=300, cwd=where, environment=settings, log=log)
        if status:
            raise UsageError(f"{case.name}: {case.prepare} failed:{fetching.end_of(log, LINES)}")
    words = command(case, budget, result)
    began = time.monotonic()
    status = fetching.bounded(
        words, seconds=budget + SPARE, cwd=where, environment=settings, log=log
    )
    if status or not result.exists():
        raise UsageError(
            f"{case.name}: the audit ended with exit status {status}:{fetching.end_of(log, LINES)}"
        )
    found = json.loads(result.read_text())
    found["seconds_of_audit"] = round(time.monotonic() - began)
    found["versions"] = _versions(case, settings)
    return kept(found, case, folder)


def _versions(case: Case, settings: dict[str, str]) -> dict[str, str]:
    done = subprocess.run(
        ["python", "-c", VERSIONS, *case.reports, "torch"],
        env=settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    versions: dict[str, str] = json.loads(done.stdout)
    return versions | {"Python": platform.python_version()}


OF_A_FAULT = (
    *("fault", "group", "outcome", "why", "steps_done", "resumed_after", "steps_lost"),
    *("status", "identical"),
)
OF_A_FINDING = ("code", "title", "harm", "component", "evidence", "faults", "printed")


def kept(found: dict[str, Any], case: Case, folder: Path) -> dict[str, Any]:
    """What results.json keeps of an audit's result: no path of this machine is in it."""
    short = {
        "date": date.today().isoformat(),
        "versions": found["versions"],
        "seconds": found["seconds_of_audit"],
        "steps": found["steps"],
        "ranks": found["ranks"],
        "saves": found["saves"],
        "reproducible": found["reproducible"],
        "unfair": found["unfair"],
        "faults": [
            {key: fault[key] for key in OF_A_FAULT}
            | {"problems": [problem["code"] for problem in fault["problems"]]}
            for fault in found["faults"]
        ],
        "untried": len(found["untried"]),
        "power_loss": found["power_loss"],
        "findings": [{key: one[key] for key in OF_A_FINDING} for one in found["findings"]],
    }
    text = json.dumps(short)
    for path, name in ((folder, "FOLDER"), (ROOT, "COURSE")):
        text = text.replace(str(path), name)
    text = re.sub(r'[^\s"\\]*/(site-packages|python3\.\d+)/', r"\1/", text)
    result: dict[str, Any] = json.loads(text)
    return result
