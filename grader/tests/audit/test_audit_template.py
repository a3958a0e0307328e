"""The template's script has no finding under any fault: one process, DDP and FSDP2."""

from __future__ import annotations

import signal

import pytest

from grader.audit import compare, faults, plan
from grader.audit.faults import TEAR, TRUNCATE
from grader.course.catalog import ROOT
from grader.tests.audit.auditing import (
    audit_of,
    inside_a_save,
    tried,
    undisturbed_life,
    undisturbed_once,
)

TEMPLATE = ROOT / "templates" / "train_with_checkpoint.py"
SMALL = ("--epochs", "2", "--samples", "72", "--batch-size", "8", "--width", "16", "--layers", "1")
OPTIONS = (*SMALL, "--workers", "0", "--save-every-steps", "4")


def template(folder, launcher, *options, ranks=0, **more):
    audit = audit_of(
        folder,
        TEMPLATE,
        *OPTIONS,
        *options,
        launcher=launcher,
        launch=("ranks", str(ranks)) if ranks else ("python",),
        folder_option="--directory",
        **more,
    )
    return undisturbed_once(audit)


def test_one_process(warm, audit_folder):
    audit = template(audit_folder, warm)
    drawn = {fault.group: fault for fault in reversed(audit.drawn()) if fault != plan.RECORD}
    assert len(drawn) >= 10
    assert tried(audit, *drawn.values()) == []
    assert all(outcome.identical for outcome in audit.outcomes)


def test_a_job_that_saves_in_the_background_and_whose_steps_are_sampled(warm, audit_folder):
    audit = template(audit_folder, warm)
    audit.runner.every = 3
    audit.again = undisturbed_life(audit)
    audit.comparable = compare.compare_undisturbed(audit.base, audit.again)
    assert audit.comparable.reproducible
    assert tried(audit, faults.kill_after(6), faults.kill_after(11)) == []


@pytest.mark.parametrize("options", [(), ("--fsdp",)], ids=["DDP", "FSDP2"])
def test_two_ranks(warm, audit_folder, options):
    audit = template(audit_folder, warm, *options, ranks=2)
    assert sorted(audit.base.ranks) == [0, 1]
    chosen = [faults.lose_rank(1, 7), faults.send(signal.SIGUSR1, 6, 20)]
    if not options:
        chosen += [inside_a_save(audit, TEAR), faults.damage(TRUNCATE, 7)]
    assert tried(audit, *chosen) == []
    assert all(outcome.identical for outcome in audit.outcomes)
