"""Audits for tests: of a script, with the faults that a test chooses."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from grader.audit import compare, faults, findings
from grader.audit.faults import Fault
from grader.audit.history import Life
from grader.audit.lives import Commands, Runner
from grader.audit.session import Audit, CannotJudge
from grader.harness.launcher import Launcher, Plain

JOBS = Path(__file__).with_name("jobs")
JOB = Path(__file__).with_name("job.py")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
LONGEST = 600  # s of any audit
GRACE = 20  # s


def audit_of(
    folder: Path,
    job: Path,
    *options: str,
    launcher: Launcher | None = None,
    launch: tuple[str, ...] = (sys.executable,),
    elastic: int = 0,
    folder_option: str = "--out_dir",
) -> Audit:
    """`launcher`: real processes if it is None."""
    words = [*launch, str(job), folder_option, "{out}", *options]
    runner = Runner(
        Commands.of(words, None, None, elastic),
        folder,
        environment=ENVIRONMENT,
        launcher=launcher or Plain(),
    )
    return Audit(runner, LONGEST, seed=5, say=lambda line: None, grace=GRACE, elastic=elastic)


def undisturbed_once(audit: Audit) -> Audit:
    """As if a second undisturbed run had been the same as the first one."""
    audit.base = audit.again = undisturbed_life(audit)
    audit.comparable = compare.compare_undisturbed(audit.base, audit.base)
    return audit


def undisturbed_life(audit: Audit) -> Life:
    life, why = audit._undisturbed()
    if why:
        raise CannotJudge(why, life.tail)
    return life


def inside_a_save(audit: Audit, kind: str) -> Fault:
    """In a save after the first one. Where a thread writes, a save may be seen as two groups of
    events, and the first of them may hold no such fault.
    """
    saves = audit.base.first.saves()[1:]
    found = [
        fault
        for save in saves
        for fault in (faults.disk_full(save, 1) if kind == faults.FULL else faults.at_events(save))
    ]
    return next(fault for fault in found if fault.kind == kind)


def tried(audit: Audit, *chosen: Fault) -> list[findings.Finding]:
    """The findings under these faults; each of them must have come."""
    audit.run_faults(list(chosen))
    assert [(o.fault.title, o.why) for o in audit.outcomes if not o.happened] == []
    return audit.findings
