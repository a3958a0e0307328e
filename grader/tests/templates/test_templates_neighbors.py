"""templates/checkpoint_utils.py among others: locks, full disks, looks, signals, job's end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from grader.course.catalog import ROOT
from grader.tests.templates.test_templates_utils import Count, cu, manager, train

JOBS = Path(__file__).parent / "jobs"
SECOND = (
    f"import os, sys; sys.path.insert(0, {str(ROOT / 'templates')!r})\n"
    "import torch, checkpoint_utils as cu\n"
    "if len(sys.argv) > 2: os.setegid(65534); os.seteuid(65534)\n"
    "with cu.CheckpointManager(sys.argv[1], {'model': torch.nn.Linear(2, 2)}) as c:\n"
    "    c.start_over()\n    c.step()\n"
)


def second(path, *more: str) -> str:
    argv = [sys.executable, "-c", SECOND, str(path), *more]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    return "trained" if done.returncode == 0 else done.stderr


def copies(path, tmp_path) -> None:
    shutil.copytree(path, tmp_path / "copy")


def reads(path, tmp_path) -> None:
    (path / "lock").read_bytes()


def looks(path, tmp_path) -> None:
    with manager(path) as ckpt:
        ckpt.resume()


@pytest.mark.parametrize("what", [copies, reads, looks])
def test_the_lock_outlasts_what_the_job_does_with_its_directory(tmp_path, what):
    with manager(tmp_path / "run") as ckpt:
        train(ckpt, 1)
        what(tmp_path / "run", tmp_path)
        assert "another job" in second(tmp_path / "run")
        train(ckpt, 1)
    assert second(tmp_path / "run") == "trained"


def test_a_forked_child_doesnt_hold_the_lock(tmp_path):
    with manager(tmp_path) as ckpt:
        train(ckpt, 1)
        ours, theirs = os.pipe()
        if (pid := os.fork()) == 0:
            os.close(theirs)
            os.read(ours, 1)  # until the parent says so
            os._exit(0)
    try:
        assert second(tmp_path) == "trained"
    finally:
        os.close(theirs)
        assert os.waitpid(pid, 0)[1] == 0
        os.close(ours)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_job_is_refused(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for path in (folder, *folder.parents):
        if path.stat().st_uid == 0 and str(path).startswith(str(tmp_path.parents[1])):
            path.chmod(0o777)
    with manager(folder) as ckpt:
        train(ckpt, 1)
        assert "another job" in second(folder, "as another user")


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(cu.errno.ENOLCK, "no locks available")

    monkeypatch.setattr(cu.fcntl, "flock", none)
    with manager(tmp_path) as ckpt:
        train(ckpt, 2)
    assert capsys.readouterr().err.count("no lock here") == 1


# --- leftovers and unreadable ones


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("where", ["_write_files", "_fsync_path", "_fsync"])
def test_a_failed_save_leaves_nothing_behind(tmp_path, monkeypatch, asynchronous, where):
    real = getattr(cu, where)

    def full(*args):
        real(*args)
        raise OSError(28, "no space left")

    with (
        pytest.raises(OSError, match="no space"),
        manager(tmp_path, asynchronous=asynchronous) as ckpt,
    ):
        train(ckpt, 1)
        ckpt.flush()
        monkeypatch.setattr(cu, where, full)
        train(ckpt, 1)
        ckpt.flush()
    assert not [n for n in os.listdir(tmp_path) if n.startswith("tmp-")]


def unreadable(path) -> None:
    path.unlink()
    path.symlink_to(path.name)  # reading it is an OSError, for root, too


@pytest.mark.parametrize("file", ["shared.json", "rank-0.json", "manifest.json"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_cant_be_read_stops_no_save_and_isnt_deleted(tmp_path, capsys, file, which):
    with manager(tmp_path) as ckpt:
        train(ckpt, 3)
    bad = ckpt.directory.names()[which]
    unreadable(tmp_path / bad / file)
    with manager(tmp_path, keep=5) as ckpt:
        ckpt.resume()
        train(ckpt, 2)
        assert bad in ckpt.directory.names()
    assert capsys.readouterr().err.count(f"checkpoint {bad} is kept") == 1


def test_what_cant_be_removed_stops_no_save(tmp_path, monkeypatch, capsys):
    real = os.rename

    def forbidden(old, new):
        if "gone" in str(new):
            raise PermissionError(13, "not yours")
        real(old, new)

    monkeypatch.setattr(cu.os, "rename", forbidden)
    with manager(tmp_path, keep=1) as ckpt:
        train(ckpt, 3)
    assert len(ckpt.directory.names()) == 3 and "can't be removed" in capsys.readouterr().err


# --- looks


def finished(path) -> str:
    with manager(path) as ckpt:
        train(ckpt, 2)
        ckpt.end_epoch(0.5)
    return (path / "status.json").read_text()


@pytest.mark.parametrize("kind", ["step", "best"])
@pytest.mark.parametrize(
    "error", [MemoryError("evaluation"), KeyboardInterrupt(), SystemExit(1), SystemExit(0)]
)
def test_looks_that_fail_change_nothing_and_dont_count(tmp_path, kind, error):
    before = finished(tmp_path)
    for _ in range(4):
        with contextlib.suppress(type(error)), manager(tmp_path) as ckpt:
            ckpt.resume(kind)
            ckpt.should_stop()
            raise error
        assert (tmp_path / "status.json").read_text() == before
    with manager(tmp_path) as ckpt:
        ckpt.resume()
        train(ckpt, 1)


def test_looking_is_allowed_where_nothing_can_be_written(tmp_path, monkeypatch):
    finished(tmp_path)
    held = sorted(os.listdir(tmp_path))

    def forbidden(*_, **__):
        raise PermissionError(13, "read-only")

    for name in ("rename", "replace", "mkdir"):
        monkeypatch.setattr(cu.os, name, forbidden)
    monkeypatch.setattr(cu.shutil, "rmtree", forbidden)
    monkeypatch.setattr(cu.fcntl, "flock", forbidden)
    with manager(tmp_path) as ckpt:
        assert ckpt.resume()
    assert sorted(os.listdir(tmp_path)) == held


def test_a_look_in_the_middle_of_a_save_leaves_it_alone(tmp_path):
    with manager(tmp_path) as ckpt:
        train(ckpt, 1)
        tmp = ckpt.directory.begin("step", 2)
        looks(tmp_path, tmp_path)
        assert tmp.is_dir()


# --- why it stops


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_is_named_when_it_stops_the_job(tmp_path, capsys, name):
    with manager(tmp_path) as ckpt:
        train(ckpt, 1)
        os.kill(os.getpid(), signal.Signals[name])
        train(ckpt, 1)
    assert ckpt.status()["reason"] == name
    assert capsys.readouterr().err.count(f"stopping after step 2: {name}") == 1


def test_the_end_of_the_time_is_named_when_it_stops_the_job(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 20))
    with manager(tmp_path, margin=30) as ckpt:
        train(ckpt, 2)
    assert (ckpt.outcome, ckpt.steps) == ("preempted", 1)
    assert "time ends at" in ckpt.status()["reason"] and "stopping" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["1000", "Unknown", "nan", "-1"])
def test_an_end_that_isnt_this_jobs_is_ignored_aloud(tmp_path, monkeypatch, capsys, value):
    monkeypatch.setenv("SLURM_JOB_END_TIME", value)
    with manager(tmp_path) as ckpt:
        train(ckpt, 2)
    assert (ckpt.outcome, ckpt.steps) == ("done", 2)
    assert f"SLURM_JOB_END_TIME={value}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, outcome",
    [
        (SystemExit(0), "done"),
        (SystemExit(), "done"),
        (SystemExit(3), "failed"),
        (ZeroDivisionError("in a step"), "failed"),
    ],
    ids=repr,
)
def test_an_exit_says_why_and_a_clean_one_saves(tmp_path, error, outcome):
    with pytest.raises(type(error)), manager(tmp_path, every_steps=None) as ckpt:
        train(ckpt, 2)
        raise error
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["outcome"] == outcome
    assert ("exit" if isinstance(error, SystemExit) else "in a step") in status["reason"]
    assert len(ckpt.directory.names()) == (outcome == "done")


def test_a_preempted_job_may_leave_by_its_exit_status(tmp_path):
    with pytest.raises(SystemExit), manager(tmp_path) as ckpt:
        train(ckpt, 1)
        ckpt.signal.received = "SIGTERM"
        train(ckpt, 1)
        sys.exit(75)
    assert ckpt.status()["outcome"] == "preempted"


def test_outside_of_the_main_thread_it_trains_and_says_that_it_sees_no_signal(tmp_path, capsys):
    outcomes = []

    def job():
        with manager(tmp_path) as ckpt:
            train(ckpt, 1)
        outcomes.append(ckpt.outcome)

    thread = threading.Thread(target=job)
    thread.start()
    thread.join(60)
    assert outcomes == ["done"] and "main thread" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [{1}, torch.float32, Count()], ids=str)
@pytest.mark.parametrize("options", [{}, {"every_minutes": 15}, {"asynchronous": True}], ids=str)
def test_what_cant_be_saved_is_known_at_the_first_step(tmp_path, bad, options):
    state = {"part": Count(bad)}
    with (
        pytest.raises(TypeError, match="'part'"),
        cu.CheckpointManager(tmp_path, state, **options) as ckpt,
    ):
        ckpt.resume()
        ckpt.step()
    assert ckpt.steps == 0


# --- without `with`


def test_a_job_without_with_sees_signals_and_is_saved_when_it_is_closed(tmp_path):
    ckpt = manager(tmp_path, every_steps=None)
    train(ckpt, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    train(ckpt, 1)
    ckpt.close()
    ckpt.close()
    assert (ckpt.outcome, ckpt.exit_status, len(ckpt.directory.names())) == ("preempted", 75, 1)


def test_close_in_a_finally_sees_the_error(tmp_path):
    ckpt = manager(tmp_path, every_steps=None)
    with pytest.raises(ZeroDivisionError):
        try:
            train(ckpt, 1)
            raise ZeroDivisionError("in a step")
        finally:
            ckpt.close()
    assert ckpt.status()["outcome"] == "failed" and "in a step" in ckpt.status()["reason"]
    assert ckpt.directory.names() == []


def test_a_job_that_never_closes_its_manager_is_told(tmp_path):
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'templates')!r})\n"
        "import checkpoint_utils as cu\nckpt = cu.CheckpointManager(sys.argv[1], {})\nckpt.step()"
    )
    argv = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr.count("without close()") == 1


# --- torchrun --max-restarts


def test_ranks_that_torchrun_restarts_go_on(tmp_path):
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    argv += ["--max-restarts=1", "--monitor-interval=0.1", str(JOBS / "restarted.py")]
    env = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with subprocess.Popen(
        [*argv, str(tmp_path / "ck")],
        env={k: v for k, v in env.items() if not k.startswith("GRADE_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as job:
        try:
            out, err = job.communicate(timeout=600)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 0, err[-3000:]
    assert out.count("began at 2") == 2 and "can't connect" not in err


@pytest.mark.parametrize("restarts, shared", [("3", "True"), ("3", "False"), ("0", "True")])
def test_restarts_that_cant_work_are_told_at_the_start(
    tmp_path, monkeypatch, capsys, restarts, shared
):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", shared)
    manager(tmp_path)
    told = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in capsys.readouterr().err
    assert told == (restarts == "3" and shared == "True")


# --- the job script


@pytest.mark.parametrize(
    "activation, told",
    [
        ('export OLD="$NEVER_SET"', ""),
        ("[ -d /no/such ] && export OLD=1", "status 1"),
        ("grep -q x /dev/null; true", ""),
        ("false; export OLD=1", ""),
    ],
)
def test_activation_scripts_that_are_careless_dont_end_the_life(tmp_path, activation, told):
    script = (ROOT / "templates" / "auto_resume.sbatch").read_text()
    line = next(text for text in script.splitlines() if "; environment" in text)
    (tmp_path / "activate").write_text(activation + "\n")
    harness = (
        'set -u\nsay() { echo "$*" >&2; }\ncommand=(echo trained)\n'
        f"environment() {{ source {tmp_path}/activate; }}\n{line}\nwait $!\n"
    )
    done = subprocess.run(["bash", "-c", harness], capture_output=True, text=True, timeout=60)
    assert done.stdout == "trained\n" and done.returncode == 0
    assert told in done.stderr and bool(told) == bool(done.stderr)


def test_what_is_said_goes_to_the_jobs_logger(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.undo()  # the logger has pytest's handlers, then
    with caplog.at_level(logging.INFO), manager(tmp_path) as ckpt:
        ckpt.signal.received = "SIGTERM"
        train(ckpt, 1)
        manager(tmp_path).resume()
    told = [(r.name, r.levelname, r.getMessage().partition(" ")[0]) for r in caplog.records]
    assert told == [
        ("checkpoint_utils", "INFO", "stopping"),
        ("checkpoint_utils", "INFO", "resumed"),
    ]
    assert "resumed" not in capsys.readouterr().err
