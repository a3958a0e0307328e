"""Each mistake of the course, in a training script of its own, gets the right finding."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import pytest

from grader.audit import faults, plan, power, session
from grader.audit.faults import FLIP, FULL, MISSING, TEAR, TRUNCATE, Fault
from grader.audit.session import Audit
from grader.tests.audit.auditing import JOBS, audit_of, inside_a_save, tried, undisturbed_once

Choice = Callable[[Audit], Fault]


def after(step: int) -> Choice:
    return lambda audit: faults.kill_after(step)


def inside(kind: str) -> Choice:
    return lambda audit: inside_a_save(audit, kind)


def damaged(kind: str, file: str = "") -> Choice:
    return lambda audit: faults.damage(kind, 10, file=file)


def warned(number: signal.Signals) -> Choice:
    return lambda audit: faults.send(number, 6, 20)


MISTAKES = [
    ("no_optimizer", after(6), "state-lost", "optimizer"),
    ("no_scheduler", after(6), "state-lost", "learning rate"),
    ("no_python_rng", after(6), "state-lost", "Python RNG"),
    ("no_numpy_rng", after(6), "state-lost", "NumPy RNG"),
    ("no_torch_rng", after(6), "state-lost", "torch RNG"),
    ("no_position", after(10), "state-lost", "batch"),
    ("no_epoch", after(10), "state-lost", "batch"),
    ("no_scaler", after(6), "state-lost", "gradient scaler"),
    ("no_ema", after(6), "state-lost", "averaged weights"),
    ("no_buffers", after(6), "state-lost", "buffers"),
    ("no_generator", after(9), "state-lost", "weights"),
    ("no_teacher", after(6), "state-lost", "targets"),
    ("no_ema_file", after(6), "saved-state-lost", "ema.safetensors"),
    ("no_ema_by_hand", after(6), "saved-state-lost", "ema"),
    ("no_best", after(6), "saved-state-lost", "best"),
    ("off_by_one", after(6), "steps-repeated", None),
    ("no_step", after(6), "steps-repeated", None),
    ("in_place", inside(TEAR), "no-restart", None),
    ("starts_over", inside(TEAR), "starts-over", None),
    ("deletes_first", inside(TEAR), "starts-over", None),
    ("full_disk_ignored", inside(FULL), "no-restart", None),
    ("newest_only", damaged(TRUNCATE), "damaged-newest", None),
    ("in_place", damaged(TRUNCATE), "only-checkpoint", None),
    ("missing_file", damaged(MISSING, "step-N/optimizer.pt"), "damage-unnoticed", "optimizer"),
    ("missing_file", damaged(MISSING, "step-N/model.pt"), "damaged-newest", None),
    ("flip_unnoticed", damaged(FLIP), "flip-unnoticed", None),
    ("temp_files", inside(TEAR), "leftovers", None),
    ("plain", warned(signal.SIGTERM), "no-save-at-signal", None),
    ("ignores_signals", warned(signal.SIGTERM), "ignores-signal", None),
    ("exit_0", warned(signal.SIGTERM), "exit-status", None),
    ("resume_crashes", after(6), "no-restart", None),
]


@pytest.mark.parametrize("job, fault, code, component", MISTAKES)
def test_a_mistake_gets_its_finding(warm, audit_folder, job, fault, code, component):
    audit = undisturbed_once(audit_of(audit_folder, JOBS / f"{job}.py", launcher=warm))
    found = tried(audit, fault(audit))
    assert found and code in {finding.code for finding in found}, (found, audit.outcomes)
    if component:
        assert component in {finding.component for finding in found if finding.code == code}
    allowed = {code, *ALSO.get(job, ())}
    assert {finding.code for finding in found} <= allowed, found


# what follows from the same mistake
ALSO = {
    "off_by_one": ["state-lost"],
    "no_step": ["state-lost"],
    "no_position": ["steps-repeated"],
    "no_epoch": ["steps-repeated"],
}


@pytest.mark.parametrize(
    "options, code, component",
    [([], "saved-state-lost", "average.pt"), (["--replace"], "not-trained", None)],
)
def test_what_is_left_of_a_model(warm, audit_folder, options, code, component):
    audit = audit_of(audit_folder, JOBS / "other_model.py", *options, launcher=warm)
    (finding,) = tried(undisturbed_once(audit), faults.kill_after(6))
    assert (finding.code, finding.component) == (code, component)
    assert audit.outcomes[0].resumed == 4


def test_a_job_that_hangs_at_its_resume(warm, audit_folder, monkeypatch):
    monkeypatch.setattr(session, "SHORTEST", 1.0)
    audit = undisturbed_once(audit_of(audit_folder, JOBS / "stale_lock.py", launcher=warm))
    audit.grace = 0
    assert [finding.code for finding in tried(audit, faults.kill_after(6))] == ["hangs"]


def test_a_job_that_keeps_all_checkpoints(warm, audit_folder):
    audit = audit_of(audit_folder, JOBS / "keeps_all.py", launcher=warm)
    audit.undisturbed()
    (finding,) = audit.findings
    assert (finding.code, finding.harm) == ("disk-grows", "note")
    assert "4 saves left 4 files" in finding.evidence[0]


@pytest.mark.skipif(sys.platform != "linux", reason="system calls are recorded on Linux")
def test_a_job_that_renames_before_it_syncs(warm, audit_folder, monkeypatch):
    monkeypatch.setattr(power, "MOST_STATES", 4)
    audit = undisturbed_once(audit_of(audit_folder, JOBS / "plain.py", launcher=warm))
    found = {finding.code: finding for finding in tried(audit, plan.RECORD)}
    assert found.keys() == {"power-loss-stops"}, found
    assert "power loss after `" in found["power-loss-stops"].faults[0]
    assert audit.power.possible > 4 and len(audit.outcomes) == 4
    assert "tried 4 disk states (of " in audit.power.says(4)
    assert {outcome.reached for outcome in audit.outcomes} <= set(range(8, 14))


STYLES = ["trainer", "functions", "files", "epochs", "gan", "database"]


@pytest.mark.parametrize("style", STYLES)
def test_a_right_script_gets_no_finding(warm, audit_folder, style):
    audit = audit_of(audit_folder, JOBS / f"right_{style}.py", launcher=warm)
    audit.undisturbed()
    assert audit.comparable.reproducible
    chosen = [faults.kill_twice(9, 3), faults.damage(TRUNCATE, 13)]
    chosen += [inside_a_save(audit, kind) for kind in (TEAR, FULL)]
    if style == "files":
        chosen.append(faults.damage(MISSING, 13, file="checkpoint-N/optimizer.pt"))
    if style in ("trainer", "gan"):
        chosen.append(faults.send(signal.SIGTERM, 6, 20))
    if style == "trainer":
        chosen += [faults.damage(FLIP, 13), faults.time_limit(6, 20, 1.0)]
    assert tried(audit, *chosen) == []
    assert all(outcome.identical for outcome in audit.outcomes)


def test_a_compiled_model_is_seen(warm, audit_folder):
    audit = undisturbed_once(audit_of(audit_folder, JOBS / "right_compiled.py", launcher=warm))
    assert {len(step.parts["batch"].split()) for step in audit.base.first.steps} == {2}
    assert tried(audit, faults.kill_after(6)) == []
    assert audit.outcomes[0].identical and audit.outcomes[0].resumed == 4
