"""What is judged of exercise 4's jobs, on small histories; and the witness that writes them."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from pathlib import Path

import pytest

from grader.checks.ex04 import (
    cluster_runs,
    job_endings,
    job_record,
    life_notes,
    resubmission,
    resubmission_runs,
)
from grader.checks.ex04.job_record import ClusterRun
from grader.checks.ex04.witness import Witness
from grader.slurm import ancestors, processes
from grader.slurm.errors import ClusterError
from grader.slurm.target import Where
from grader.verdicts import FAIL, INCONCLUSIVE, Finding
from grader.workload.ex04.train import Walk, write_checkpoint

# --- the contract of begin_life, as the checks have it


def test_begin_life_gives_up_when_the_last_lives_all_crashed_at_one_step():
    crash = (10, "failed", 2)
    assert life_notes.expected([crash, crash, crash]) == [True, True, "CrashLoop"]
    assert life_notes.expected([crash, (20, None, 2), crash, crash, crash]) == [
        True,
        True,
        True,
        True,
        "CrashLoop",
    ]
    assert life_notes.expected([crash, (10, "preempted", 2), crash, crash]) == [True] * 4
    assert life_notes.expected([(10, "done", 2), crash, crash]) == [True, False, False]
    assert life_notes.expected([crash], [crash], [crash]) == ["CrashLoop"]


def test_an_error_is_said_to_be_the_functions_that_raised_it():
    frames = [{"file": "/g/train.py", "function": "life", "line": 1, "text": ""}]
    for function in ("begin_life", "end_life"):
        own = {"file": "/s/x-code/code/auto_resume.py", "function": function, "line": 7, "text": ""}
        inner = own | {"function": "_write"}
        said = {"raised": {"type": "NameError", "message": "", "frames": [*frames, own, inner]}}
        assert life_notes._function(said) == function
    assert life_notes._function({"returned": True}) == "begin_life"


# --- runs


def run_of(*events: dict, jobs: dict | None = None, late: bool = False, **facts) -> ClusterRun:
    run = ClusterRun(Path("/nowhere"), jobs or {}, late, Where("stand-in"), **facts)
    run.events = [
        {"t": float(n), "life": 1, "job": "7", "pid": 1, **event} for n, event in enumerate(events)
    ]
    return run


def cause(check, *args) -> str:
    with pytest.raises(Finding) as found:
        check(*args)
    return f"{found.value.verdict}: {found.value.cause}"


LIFE = {"event": "life", "at_once": []}
FAULT = {"event": "fault", "do": "preempt", "step": 7, "number": 0, "saved": 5}


def test_a_fault_is_survived_by_a_save_and_by_the_exit_status_that_says_so():
    saved, left = {"event": "saved", "step": 7}, {"event": "left", "status": 75}
    resubmission.kept(run_of(LIFE, FAULT, saved, left), "preempt", "?")
    assert (
        cause(resubmission.kept, run_of(LIFE, FAULT, left), "preempt", "?")
        == f"{FAIL}: lost:preempt"
    )
    assert (
        cause(resubmission.kept, run_of(LIFE, FAULT, saved), "preempt", "?")
        == f"{FAIL}: lost:preempt"
    )


def test_on_a_machine_that_was_too_slow_what_came_too_late_proves_nothing():
    run = run_of(LIFE, FAULT, slowest=5.0)
    assert cause(resubmission.kept, run, "preempt", "?") == f"{INCONCLUSIVE}: starved"


STEP, SIGNAL = {"event": "step", "step": 8}, {"event": "signal", "signal": "SIGUSR1"}


def test_a_life_that_reached_its_limit_on_a_slow_machine_is_not_one_too_many():
    struck = [LIFE, STEP, FAULT, SIGNAL]
    slow = [e | {"life": 2} for e in (LIFE, STEP, SIGNAL)]
    idle = [e | {"life": 3} for e in (LIFE, SIGNAL)]  # it never trained
    assert run_of(*struck, *slow, *idle).cut_short == 1
    finished = job_endings.finished
    late = {"late": True, "jobs": {"7": {}}}
    assert cause(finished, run_of(*struck, *slow, **late)) == f"{INCONCLUSIVE}: starved"
    assert cause(finished, run_of(*struck, *idle, **late)).startswith(FAIL)
    endless = run_of(*struck, *slow, **late, endless=True)
    assert cause(finished, endless) == f"{FAIL}: endless"


def test_a_log_is_truncated_if_the_first_lives_are_missing_or_one_that_ended_by_itself(tmp_path):
    mark, left = {"event": "mark"}, {"event": "left", "status": 0}
    lives = [
        e | {"life": n} | ({"mark": f"life-{n}"} if e is mark else {})
        for n in (1, 2, 3)
        for e in (LIFE, mark, *([left] if n == 2 else []))
    ]

    def logged(text: str) -> ClusterRun:
        (tmp_path / "train.log").write_text(text)
        run = run_of(*lives)
        run.folder = tmp_path
        return run

    resubmission.log_goes_on(logged("life-1 life-2 life-3"))
    resubmission.log_goes_on(logged("life-1 life-2"))  # killed before it printed anything
    for text in ("life-2 life-3", "life-3", "life-1 life-3"):
        assert cause(resubmission.log_goes_on, logged(text)) == f"{FAIL}: log-truncated"


def test_two_lives_at_once_are_seen_by_the_witness_and_by_the_cluster():
    resubmission.one_at_a_time(run_of(LIFE))
    assert (
        cause(resubmission.one_at_a_time, run_of(LIFE, LIFE | {"at_once": ["6"]}))
        == f"{FAIL}: two-at-once"
    )
    assert (
        cause(resubmission.one_at_a_time, run_of(LIFE, at_once={"6", "7"}))
        == f"{FAIL}: two-at-once"
    )


def test_each_job_of_a_chain_submits_one():
    jobs = {"7": {}, "8": {}}
    resubmission.generations(run_of(LIFE, jobs=jobs))
    assert (
        cause(resubmission.generations, run_of(LIFE, jobs=jobs | {"9": {}}))
        == f"{FAIL}: too-many-jobs"
    )


def test_after_70_a_chain_goes_on_or_ends():
    left = {"event": "left", "status": 70}
    resubmission.chain_ends(
        run_of(LIFE, left, jobs={"7": {"JobState": "FAILED"}, "8": {"JobState": "CANCELLED"}})
    )
    done = run_of(LIFE, left, jobs={"7": {"JobState": "COMPLETED", "ExitCode": "0:0"}})
    assert cause(resubmission.chain_ends, done) == f"{FAIL}: final-state"
    assert (
        cause(resubmission.chain_ends, run_of(LIFE, left, LIFE | {"life": 2}))
        == f"{FAIL}: chain-without-end"
    )


def test_a_life_that_the_cluster_has_no_record_of_proves_nothing():
    assert cause(resubmission_runs._witnessed, run_of(LIFE)) == f"{INCONCLUSIVE}: record"
    resubmission_runs._witnessed(
        run_of(LIFE, record=[{"job": "7", "start": 0.0, "end": 9.0, "state": "COMPLETED"}])
    )


def test_slurm_that_does_not_start_gives_way_to_the_stand_in_and_the_run_says_so(monkeypatch):
    def run(lab, where, *rest):
        if where.chosen == "slurm":
            raise ClusterError("it didn't start")
        return run_of(LIFE)

    monkeypatch.setattr(cluster_runs, "_run", run)
    monkeypatch.setattr(cluster_runs.backend, "missing", lambda: None)
    assert cluster_runs._ran(None, Where(), False).instead
    assert cause(cluster_runs._ran, None, Where("slurm"), False) == f"{INCONCLUSIVE}: cluster"


# --- the witness


class Life:
    """A process that reports: this one."""

    def __init__(self, witness: Witness):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(witness.address.removeprefix("unix:"))
        self.answers = self.socket.makefile()
        self.say("hello", token="")

    def say(self, event: str, **fields) -> None:
        self.socket.sendall(json.dumps({"event": event, **fields}).encode() + b"\n")

    def ask(self, event: str, **fields) -> dict | None:
        """None from a witness that has closed the connection, before this was said or after."""
        try:
            self.say(event, **fields)
            line = self.answers.readline()
        except (BrokenPipeError, ConnectionResetError):
            return None
        return json.loads(line) if line else None


@pytest.fixture
def witness(tmp_path, monkeypatch):
    monkeypatch.setattr(
        processes, "send", lambda known, number: True
    )  # it would kill what isn't the training: this process
    with Witness(
        tmp_path,
        tmp_path / "checkpoints",
        [{"step": 2, "do": "exit", "status": 1}],
        4,
        None,
        lambda pid: "7",
    ) as it:
        it.command = ancestors.arguments(os.getpid())
        yield it


def strange(witness: Witness, life: Life) -> str:
    assert life.answers.readline() == ""
    return next(e["what"] for e in witness.events if e["event"] == "strange")


def test_the_witness_gives_each_step_its_number_and_strikes_as_planned(witness, tmp_path):
    life, walk = Life(witness), Walk()
    assert life.ask("life")["mark"]
    salt = life.ask("resumed", step=0)["salt"]
    walk.advance(salt)
    assert walk.digest() == witness.undisturbed[1]
    life.ask("step", step=1, digest=walk.digest())
    salt = life.ask("ready", step=1)["salt"]
    walk.advance(salt)
    life.ask("step", step=2, digest=walk.digest())
    life.ask("saving", step=2)
    write_checkpoint(tmp_path / "checkpoints", 2, walk.state())
    assert life.ask("saved", step=2) == {}
    assert life.ask("ready", step=2) == {"do": "exit", "status": 1}
    assert [e["saved"] for e in witness.events if e["event"] == "fault"] == [2]


def test_a_checkpoint_that_is_not_the_steps_is_not_taken_for_one(witness, tmp_path):
    life = Life(witness)
    life.ask("resumed", step=2)
    write_checkpoint(tmp_path / "checkpoints", 2, {"step": 2})
    assert life.ask("saved", step=2) is None
    assert "isn't step 2" in strange(witness, life)


def test_a_life_that_skips_steps_is_none(witness):
    life = Life(witness)
    life.ask("resumed", step=0)
    assert life.ask("step", step=3, digest="0") is None
    assert "step 3" in strange(witness, life)


def test_a_process_with_another_command_line_is_not_the_training(witness):
    witness.command = ["something", "else"]
    assert Life(witness).ask("life") is None


def test_the_walk_without_the_numbers_is_another_one(witness):
    walk = Walk()
    for _ in range(4):
        walk.advance(0.0)
    assert walk.digest() != witness.undisturbed[4]
    assert hashlib.sha256(json.dumps(walk.state()).encode()).hexdigest() == walk.digest()


def test_a_job_that_lifted_its_limits_proves_nothing():
    """It was to be ended by the cluster, and went on in the same run of the job."""
    here = {"job": "7", "start": -10.0, "end": 10.0, "state": "COMPLETED"}
    done = [{"event": "saved", "step": job_record.STEPS}, {"event": "left", "status": 0}]
    resubmission_runs._witnessed(run_of(LIFE, FAULT, *done, record=[here, here]))
    resubmission_runs._witnessed(
        run_of(LIFE, FAULT, record=[here])
    )  # it was ended: a failure, if anything
    found = cause(resubmission_runs._witnessed, run_of(LIFE, FAULT, *done, record=[here]))
    assert found == f"{INCONCLUSIVE}: record"


# --- how a life ended: only what was observed


def story_of(check, *args) -> tuple[str, str]:
    """(cause, the message's rows as text)"""
    with pytest.raises(Finding) as found:
        check(*args)
    return found.value.cause, "\n".join(": ".join(row) for row in found.value.rows)


KILLED = {"event": "fault", "do": "kill", "step": 8, "number": 0, "saved": 5}
NAME_ERROR = {
    "event": "error",
    "type": "NameError",
    "message": "name '_raed' is not defined",
    "frames": [{"line": 7, "function": "begin_life", "text": "last = _raed(directory)"}],
}


def test_a_life_that_reported_nothing_is_said_to_have_ended_like_that():
    job = {"7": {"JobState": "FAILED", "ExitCode": "1:0"}}
    _, told = story_of(job_endings.finished, run_of(LIFE, jobs=job))
    assert "ended: the training ended without reporting anything" in told and "killed" not in told


def test_a_life_that_the_witness_killed_is_said_to_be_killed():
    _, told = story_of(job_endings.finished, run_of(LIFE, KILLED))
    assert "the training was killed by that fault" in told


def test_an_error_in_a_function_of_the_student_is_the_cause_in_every_check():
    again = run_of(LIFE, NAME_ERROR, endless=True)
    again.late = True
    for check in (job_endings.finished, resubmission.gives_up, resubmission.chain_ends):
        found, told = story_of(check, again)
        assert found == "crashed:NameError:auto_resume.py:7"
        assert "auto_resume.py:7 in begin_life: last = _raed(directory)" in told
        assert "left with 70" not in told and "status 70" not in told


def test_an_error_is_the_cause_though_other_lives_follow_it():
    loop = NAME_ERROR | {"type": "CrashLoop", "message": "3 lives"}
    given_up = [LIFE | {"life": 2}, loop | {"life": 2}, {"event": "left", "life": 2, "status": 70}]
    under_way = LIFE | {"life": 3}
    again = run_of(LIFE, KILLED | {"life": 0}, NAME_ERROR, *given_up, under_way, endless=True)
    again.late = True
    found, told = story_of(resubmission.finished, again)
    assert found == "crashed:NameError:auto_resume.py:7" and "NameError" in told
    killed = run_of(LIFE, NAME_ERROR, LIFE | {"life": 2}, KILLED | {"life": 2})
    assert cause(resubmission.finished, killed) == f"{FAIL}: not-run-again"


def test_the_exceptions_of_the_contract_are_no_errors():
    loop = NAME_ERROR | {"type": "CrashLoop", "message": "3 lives"}
    job = {"7": {"JobState": "FAILED", "ExitCode": "70:0"}}
    assert cause(job_endings.finished, run_of(LIFE, loop, jobs=job)) == f"{FAIL}: not-run-again"


def test_a_job_that_never_left_with_70_is_not_said_to_have():
    again = run_of(LIFE, endless=True)
    again.late = True
    found, told = story_of(resubmission.gives_up, again)
    assert found == "crash-loop" and "no life ended with 70" in told


def test_a_fault_that_an_earlier_one_kept_from_coming_is_not_what_failed():
    job = {"7": {"JobState": "FAILED", "ExitCode": "75:0"}}
    run = run_of(LIFE, FAULT, {"event": "left", "status": 75}, jobs=job)
    with pytest.raises(Finding) as found:
        resubmission.kept(run, "limit", "?")
    assert found.value.code == "not-run-again" and found.value.data["unreached"]
    assert found.value.rows[-1][1].startswith("the job didn't get as far as its time limit")
