"""The stand-in as a thing of its own: what it refuses, and that nothing of it is left. Its likeness
to Slurm is test_slurm_conformance.py's.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from grader.course.catalog import ROOT
from grader.errors import UsageError
from grader.processes import wait_until
from grader.slurm import Cluster, StandIn, choose, installation, processes
from grader.tests.slurm.test_slurm_cluster import (
    at_work,
    ends_with_its_grader,
    everything,
    gone,
    grade_cluster,
)


@pytest.fixture(scope="module")
def place():
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="s") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def shared(place):
    with StandIn(place / "shared", grace=1, kill_wait=0.5) as cluster:
        yield cluster


# --- what it refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "sbatch --gres=gpu:1 x.sh",
        "sbatch --export=NONE x.sh",
        "sbatch -Z x.sh",
        "sbatch -d aftercorr:1 x.sh",
        "sbatch -d afterok:1?afterok:2 x.sh",
        "sbatch --exclusive=user x.sh",
        "sbatch --signal=R:USR1 x.sh",
        "srun --pty bash",
        "srun --mpi=pmix true",
        "srun --out=x true",
        "squeue -O JobID",
        "squeue -o %z",
        "squeue --start",
        "scontrol reconfigure",
        "scontrol update nodename=n1 state=drain",
        "scontrol update jobid=1 Nice=5",
        "scancel --ctld 1",
        "sacct -c -o MaxRSS",
        "sbatch --hold x.sh",
        "sbatch --begin=now+5 x.sh",
        "srun --label true",
        "scontrol hold 1",
        "scontrol requeuehold 1",
        "sinfo -R",
        "sinfo -o %G",
        "salloc -N1",
        "sacctmgr show user",
        "sstat -j 1",
    ],
)
def test_what_it_doesnt_know_is_refused_in_one_line(shared, command, tmp_path):
    (tmp_path / "x.sh").write_text("#!/bin/sh\n")
    # something to ask about
    shared.run(["sbatch", "-o", "/dev/null", "--wrap", "true"], check=True)
    done = shared.run(command.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and done.stderr.endswith(
        "the real cluster may (on Debian and Ubuntu: make slurm)\n"
    ), done.stderr


def test_an_unknown_sbatch_line_or_variable_is_refused_too(shared, tmp_path):
    (tmp_path / "x.sh").write_text("#!/bin/sh\n#SBATCH --gres=gpu:8\n")
    assert "--gres" in shared.run(["sbatch", tmp_path / "x.sh"]).stderr
    (tmp_path / "x.sh").write_text("#!/bin/sh\n")
    done = shared.run(["sbatch", tmp_path / "x.sh"], env=shared.env | {"SBATCH_GRES": "gpu:8"})
    assert done.returncode == 2 and "SBATCH_GRES" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        {"nodes": 0},
        {"nodes": 1.5},
        {"grace": -1},
        {"grace": "1"},
        {"proctrack": "pgid"},
        {"settings": {"SelectType": "x"}},
        {"requeue_delay": -1},
    ],
)
def test_wrong_options_are_told(place, options):
    with pytest.raises(UsageError):
        StandIn(place / "never", **options).start()
    assert not (place / "never").exists()


# --- nothing of it is left ------------------------------------------------------------------------

needs_proc = pytest.mark.skipif(not processes.PROC, reason="looks into /proc")


@needs_proc
@pytest.mark.parametrize("victim", [None, "keeper"])
def test_down_leaves_nothing(place, tmp_path, victim):
    cluster = StandIn(place / "down")
    cluster.start(stay=True)
    known = at_work(cluster, tmp_path, 20)
    if victim:
        os.kill(cluster.pids()[victim], signal.SIGKILL)
        assert wait_until(lambda: cluster.status().phase == "dead", 60)
    cluster.stop()
    assert gone(known, cluster)
    cluster.stop()  # nothing to do


@needs_proc
def test_when_the_grader_is_killed_its_stand_in_ends(place, tmp_path):
    ends_with_its_grader(StandIn(place / "lost"), tmp_path, 20)


@needs_proc
def test_a_stand_in_whose_directory_is_removed_ends(place, tmp_path):
    cluster = StandIn(place / "removed")
    cluster.start(stay=True)
    known = at_work(cluster, tmp_path, 20)
    shutil.rmtree(cluster.directory, ignore_errors=True)
    assert gone(known, cluster)


@needs_proc
def test_a_job_takes_what_it_started_along(shared, tmp_path):
    """By SIGKILL, as a cgroup does: sessions of their own and cleared environments don't save
    them.
    """
    before = {p["pid"] for p in everything(shared)}
    known = [p for p in at_work(shared, tmp_path, 20) if p["pid"] not in before]
    assert len(known) >= 5
    shared.run(["scancel", "-n", "job.sh"], check=True)
    assert wait_until(lambda: not any(map(processes.alive, known)), 60)


AS_ON_MACOS = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import psutil
import grader.processes
grader.processes.reap_descendants = lambda: False
from grader.slurm import processes
processes.psutil, processes.PROC = psutil, False
from grader.slurm.standin import controller
controller.main()
"""


@needs_proc
def test_where_there_is_no_proc_and_orphans_go_elsewhere(place, tmp_path, monkeypatch):
    (tmp_path / "controller.py").write_text(AS_ON_MACOS)
    monkeypatch.setattr(StandIn, "program", tmp_path / "controller.py")
    log = tmp_path / "log"
    with StandIn(place / "elsewhere", kill_wait=0.5) as cluster:
        body = (
            f"(setsid sleep 601 & echo $! >> {log}; sleep 0.1)\nsrun sh -c '(setsid sleep "
            f"602 & echo $! >> {log}; sleep 0.1); sleep 603' & sleep 0.5\nwait\n"
        )
        job = cluster.submit("-o", "/dev/null", "--wrap", body)
        assert wait_until(lambda: log.exists() and len(log.read_text().split()) == 2, 60)
        orphans = [processes.identity(int(pid)) for pid in log.read_text().split()]
        assert all(map(processes.alive, orphans))
        cluster.run(["scancel", job], check=True)
        cluster.wait_for(job, "CANCELLED")
        assert wait_until(lambda: not any(map(processes.alive, orphans)), 60)
        other = cluster.submit(
            "-o",
            "/dev/null",
            "--wrap",
            f"(setsid sleep 604 & echo $! > {log}; sleep 0.1); sleep 600",
        )
        cluster.wait_for(other, "RUNNING")
        assert wait_until(lambda: len(log.read_text().split()) == 1, 60)
        left = processes.identity(int(log.read_text()))
    assert wait_until(lambda: not processes.alive(left), 60) and not cluster.directory.exists()


# --- beyond conformance ---------------------------------------------------------------------------


def test_each_job_has_its_own_exit_status_on_record(shared, tmp_path):
    """A job goes on record when it is canceled, and its exit status when its last process ends."""
    ready, trapped, over = (tmp_path / name for name in ("ready", "trapped", "over"))
    trap = f"trap 'touch {trapped}; until [ -e {over} ]; do sleep 0.02; done; exit 4' TERM"
    submit = ["sbatch", "--parsable", "-o", "/dev/null"]
    body = f"{trap}; touch {ready}; sleep 60 & wait"
    slow = shared.run([*submit, "--wrap", body], check=True).stdout.strip()
    assert wait_until(ready.exists, 60)
    shared.run(["scancel", slow], check=True)
    assert wait_until(trapped.exists, 60)
    quick = shared.run([*submit, "-W", "--wrap", "exit 5"]).stdout.strip()
    over.touch()

    def exits(job: str) -> str:
        return shared.run(["sacct", "-c", "-n", "-P", "-j", job, "-o", "ExitCode"]).stdout.strip()

    assert wait_until(lambda: exits(slow) == "4:0", 60), exits(slow)
    assert exits(quick) == "5:0"


def test_choose_takes_the_real_one_where_there_is_one_and_says_so_where_there_isnt(
    place, monkeypatch, capsys
):
    monkeypatch.setattr(installation, "find", lambda: None)
    assert type(choose(place / "x", nodes=3)) is Cluster and capsys.readouterr().err == ""
    monkeypatch.undo()
    monkeypatch.setattr(installation.shutil, "which", lambda *_, **__: None)
    chosen = choose(place / "x", nodes=3, grace=1, fast_limits=True)
    assert type(chosen) is StandIn and chosen.options.nodes == 3
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and said.startswith("a stand-in instead of Slurm: ")


def test_up_status_shell_down(place):
    try:
        up = grade_cluster(place / "cli", "up", "--stand-in", "--nodes", 1)
        assert up.returncode == 0 and "stand-in lab is up" in up.stdout and up.stderr == ""
        status = grade_cluster(place / "cli", "status")
        assert (
            status.returncode == 0
            and "stand-in lab is up" in status.stdout
            and "n1 idle" in status.stdout
        )
        assert (
            grade_cluster(place / "cli", "shell", "--", "srun", "sh", "-c", "exit 5").returncode
            == 5
        )
        assert grade_cluster(place / "cli", "up", "--stand-in").returncode == 2
    finally:
        down = grade_cluster(place / "cli", "down")
    assert down.returncode == 0 and not (place / "cli").exists()
    assert grade_cluster(place / "cli", "down").returncode == 0
