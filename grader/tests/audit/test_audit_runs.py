"""Audits of small training scripts, as real processes: each mistake gets the right finding."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from grader.audit import faults, findings
from grader.audit.faults import KILL, TEAR, TRUNCATE
from grader.audit.lives import on_ranks
from grader.audit.session import Audit, CannotJudge
from grader.errors import UsageError
from grader.processes import wait_until
from grader.tests.audit.auditing import (
    ENVIRONMENT,
    JOB,
    JOBS,
    audit_of,
    inside_a_save,
    tried,
    undisturbed_once,
)


@pytest.fixture(scope="module")
def right(warm, audit_folder):
    """The undisturbed runs of the right job; a mistake in resuming doesn't change them."""
    audit = audit_of(audit_folder, JOB, launcher=warm)
    audit.undisturbed()
    return audit


@pytest.fixture(scope="module")
def in_place(warm, audit_folder):
    return undisturbed_once(audit_of(audit_folder, JOB, "--mistake", "in-place", launcher=warm))


def attempt(like: Audit, fault: faults.Fault, mistake: str) -> tuple:
    """(outcome, findings) of one fault on the job with a mistake, judged by these runs."""
    options = ["--mistake", mistake] if mistake else []
    audit = audit_of(like.runner.folder, JOB, *options, launcher=like.runner.launcher)
    audit.base, audit.again, audit.comparable = like.base, like.again, like.comparable
    audit.outcomes = [audit.attempt(fault)]
    return audit.outcomes[0], findings.collect(audit.outcomes)


def test_the_undisturbed_runs_are_seen(right):
    assert right.comparable.reproducible
    process = right.base.first
    assert [save.step for save in process.saves()] == [6, 12, 18, 24]
    assert len(process.steps) == 24 and process.end
    seen = process.steps[7].parts
    assert {"weights", "buffers", "optimizer exp_avg", "batch", "gradients"} <= seen.keys()
    assert {"Python RNG", "NumPy RNG", "torch RNG"} - right.comparable.ignored == {
        "NumPy RNG",
        "torch RNG",
    }
    # four batches in two steps, all different
    assert process.steps[7].parts["batch"] != process.steps[8].parts["batch"]


@pytest.mark.parametrize("kind", ["step", TEAR, KILL, TRUNCATE, "twice", "SIGTERM", "SIGUSR1"])
def test_a_right_job_is_clean(right, kind):
    fault = {
        "step": lambda: faults.kill_after(9),
        TEAR: lambda: inside_a_save(right, TEAR),
        KILL: lambda: inside_a_save(right, KILL),
        TRUNCATE: lambda: faults.damage(TRUNCATE, 14),
        "twice": lambda: faults.kill_twice(8, 7),
        "SIGTERM": lambda: faults.send(signal.SIGTERM, 9, 20),
        "SIGUSR1": lambda: faults.send(signal.SIGUSR1, 9, 20),
    }[kind]()
    outcome, found = attempt(right, fault, "")
    assert outcome.happened and outcome.identical and found == [], (outcome, found)


@pytest.mark.parametrize(
    "mistake, component, also, step",
    [
        ("no-optimizer", "optimizer", "optimizer exp_avg", 7),
        ("no-scheduler", "learning rate", "learning rate", 11),  # when the schedule should change
        ("no-rng", "batch", "NumPy RNG", 7),
        ("no-order", "batch", "torch RNG", 7),
    ],
)
def test_lost_state_is_found_at_the_step_that_it_changes(right, mistake, component, also, step):
    outcome, (finding,) = attempt(right, faults.kill_after(9), mistake)
    assert (finding.code, finding.component, finding.harm) == ("state-lost", component, "silent")
    assert outcome.resumed == 6 and outcome.lost == 3
    difference = outcome.problems[0].difference
    assert difference.step == step and also in difference.names


def test_a_save_in_place_stops_the_job(in_place):
    outcome, (finding,) = attempt(in_place, inside_a_save(in_place, TEAR), "in-place")
    assert (finding.code, finding.harm) == ("no-restart", "loud")
    assert outcome.status == 1 and finding.printed


def test_a_job_that_starts_over_says_nothing_and_is_found(in_place):
    outcome, (finding,) = attempt(in_place, inside_a_save(in_place, TEAR), "starts-over")
    assert (finding.code, finding.harm) == ("starts-over", "silent")
    assert outcome.resumed == 0 and outcome.lost == 12


def test_a_job_that_ignores_sigterm(right):
    _, (finding,) = attempt(right, faults.send(signal.SIGTERM, 9, 20), "ignores-sigterm")
    assert (finding.code, finding.harm) == ("ignores-signal", "loss")


def test_an_unseeded_job_is_judged_as_far_as_possible(warm, audit_folder):
    audit = audit_of(audit_folder, JOB, "--mistake", "unseeded", launcher=warm)
    audit.undisturbed()
    assert audit.comparable.difference.step == 1
    assert audit.comparable.difference.cause == "weights"
    outcome, found = attempt(audit, faults.kill_after(9), "unseeded")
    assert outcome.resumed == 6 and outcome.identical is None and found == []


@pytest.mark.parametrize("bad", ["1", "2", "12"])
def test_an_undisturbed_run_that_aborts_at_its_exit_is_told(bad, audit_folder, tmp_path):
    options = ("--runs", str(tmp_path / "runs"), "--bad", bad)
    audit = audit_of(audit_folder, JOBS / "aborts_at_exit.py", *options)
    if bad == "12":
        with pytest.raises(CannotJudge, match="killed by SIGABRT"):
            audit.undisturbed()
        return
    audit.undisturbed()
    assert (audit.base.status, audit.again.status) == (0, -signal.SIGABRT)
    assert [finding.code for finding in audit.findings] == ["fails-at-exit"]


# --- torchrun -------------------------------------------------------------------------------------


RANKS_JOB = Path(__file__).with_name("ranks_job.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def test_the_ranks_of_torchrun_are_seen_and_one_is_killed(audit_folder):
    launch = (*TORCHRUN, "--monitor-interval=0.1")
    audit = undisturbed_once(audit_of(audit_folder, RANKS_JOB, launch=launch))
    assert sorted(audit.base.ranks) == [0, 1] and audit.comparable.reproducible
    bad = audit_of(audit_folder, RANKS_JOB, "--bad", launch=launch)
    try:
        outcome = replace(audit, runner=bad.runner).attempt(faults.lose_rank(1, 5))
    finally:
        audit.runner.close()
        bad.runner.close()
    (problem,) = outcome.problems
    assert problem.code == "state-lost" and problem.difference.rank == 1, outcome
    assert outcome.resumed == 4 and "torch RNG" in problem.difference.names


def test_a_job_of_accelerate(audit_folder):
    pytest.importorskip("accelerate")
    launch = (sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1")
    audit = audit_of(audit_folder, JOBS / "accelerate_job.py", launch=launch)
    try:
        assert tried(undisturbed_once(audit), faults.kill_after(6)) == []
    finally:
        audit.runner.close()
    assert audit.outcomes[0].identical and audit.outcomes[0].resumed == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_job_on_a_cuda_device(audit_folder):
    audit = undisturbed_once(audit_of(audit_folder, JOBS / "cuda_job.py"))
    try:
        (finding,) = tried(audit, faults.kill_after(6))
    finally:
        audit.runner.close()
    assert (finding.code, finding.component) == ("state-lost", "CUDA RNG")


def test_ranks_resume_on_another_number(warm, audit_folder):
    audit = undisturbed_once(
        audit_of(audit_folder, RANKS_JOB, launcher=warm, launch=("ranks", "2"))
    )
    audit.runner.commands = replace(
        audit.runner.commands, elsewhere=["ranks", "3", *audit.runner.commands.start[2:]]
    )
    assert tried(audit, faults.resume_elsewhere(6, 3)) == []
    assert audit.outcomes[0].resumed == 4


def test_the_number_of_ranks_is_replaced_in_the_command():
    assert on_ranks(["torchrun", "--nproc-per-node", "4", "a.py"], 2)[2] == "2"
    assert on_ranks(["torchrun", "--nproc_per_node=4", "a.py"], 2)[1] == "--nproc_per_node=2"
    assert on_ranks(["accelerate", "launch", "--num_processes", "2"], 3)[-1] == "3"
    with pytest.raises(UsageError, match="--elastic"):
        on_ranks(["python", "a.py"], 2)


# --- the command ----------------------------------------------------------------------------------


def command(*words: str, **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "grader", "audit", *words],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def test_an_audit_that_is_ended_reports_what_is_known_and_leaves_nothing(tmp_path):
    result = tmp_path / "result.json"
    job = [sys.executable, str(JOB), "--out_dir", "{out}"]
    files = ["--json", str(result)]
    for name in ("html", "junit", "markdown"):
        files += [f"--{name}", str(tmp_path / name)]
    with command(*files, "--seed", "1", "--", *job) as process:
        for line in process.stdout:
            if "the same run again" in line:
                break
        me = psutil.Process(process.pid)
        assert wait_until(lambda: len(me.children(recursive=True)) > 1, 60)
        started = me.children(recursive=True)
        process.send_signal(signal.SIGTERM)  # a shell's background job ignores SIGINT
        out, err = process.communicate(timeout=120)
    assert process.returncode == 143 and "so far" in out, err
    known = json.loads(result.read_text())
    assert (known["steps"], known["reproducible"], known["faults"]) == (24, None, [])
    assert all((tmp_path / name).stat().st_size for name in ("html", "junit", "markdown"))
    assert started and psutil.wait_procs(started, timeout=10)[1] == []


@pytest.mark.parametrize(
    "words, status, says",
    [
        (["--", "python", "train.py"], 2, "{out}"),
        (["--budget", "soon", "--", "python", "{out}"], 2, "soon"),
        (["--resume-command", "'", "--", "python", "{out}"], 2, "--resume-command"),
        (["--resume-command", "python x", "--", "python", "{out}"], 2, "doesn't contain {out}"),
        (["--elastic", "2", "--", "python", "{out}"], 2, "--elastic"),
        (["--reproducer", "/dev/null/x", "--", "python", "{out}"], 2, "--reproducer"),
        (["--setup", "false {out}", "--", "python", "{out}"], 2, "--setup"),
        (["--", "no-such-program", "{out}"], 3, "no-such-program"),
        (["--", sys.executable, "-c", "print('hello')", "{out}"], 3, "0 optimizer steps"),
        (["--budget", "2s", "--", "sh", "-c", "sleep 60", "{out}"], 3, "budget"),
    ],
)
def test_bad_input_gets_one_clear_line(words, status, says):
    with command(*words) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == status and says in err, err
    assert "Traceback" not in err
