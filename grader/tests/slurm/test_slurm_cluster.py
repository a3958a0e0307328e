"""The cluster on loopback: it's really Slurm, it touches nothing else, and nothing of it is
left.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from grader.course.catalog import ROOT
from grader.processes import wait_until
from grader.slurm import (
    Cluster,
    ClusterError,
    config,
    freezer,
    ports,
    preload,
    processes,
)
from grader.slurm import cluster as cluster_module
from grader.tests.slurm.conftest import grade_cluster, needs_cc, needs_slurm


@pytest.fixture(scope="module")
def shared(place):
    """One cluster for most tests; without grace, so that a preempted job ends at once."""
    with Cluster(place / "shared", grace=0, fast_limits=preload.compiler() is not None) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared):
    yield shared
    shared.run(["scancel", "--state=PENDING", "-u", config.user()])
    shared.run(["scancel", "--signal=KILL", "--full", "-u", config.user()])
    assert wait_until(lambda: not shared.status().jobs, 60)


def everything(cluster: Cluster) -> list[dict]:
    """Every process of the cluster: its keeper and all below it."""
    keeper = cluster.pids()["keeper"]
    return [processes.identity(pid) for pid in [keeper, *processes.descendants(keeper)]]


def gone(known: list[dict], cluster: Cluster, seconds: float = 60) -> bool:
    """Whether they all are, at once or within that time, and the directory and its cgroups too."""
    top = freezer.ROOT / f"grade-{cluster.directory.name}-{known[0]['pid']}-{known[0]['start']}"
    return wait_until(
        lambda: (
            not any(map(processes.alive, known))
            and not processes.belonging(str(cluster.directory))
            and not cluster.directory.exists()
            and not top.exists()
        ),
        seconds,
    )


# --- it's really Slurm ----------------------------------------------------------------------------


@needs_slurm
def test_two_nodes_are_idle_after_the_start(shared):
    status = shared.status()
    assert (status.phase, status.nodes, status.jobs, status.problems) == (
        "up",
        {"n1": "idle", "n2": "idle"},
        [],
        [],
    )


@needs_slurm
def test_a_batch_job_runs_and_is_on_record(cluster, tmp_path):
    job = cluster.submit(
        "-N2", "-o", tmp_path / "out", "--wrap", "srun -l printenv SLURMD_NODENAME"
    )
    assert cluster.wait_for(job, "COMPLETED", "FAILED")["JobState"] == "COMPLETED"
    assert sorted((tmp_path / "out").read_text().split()) == ["0:", "1:", "n1", "n2"]
    listed = ["sacct", "-c", "-n", "-P", "-j", job, "-o", "State"]
    assert wait_until(lambda: cluster.run(listed).stdout.split() == ["COMPLETED"], 60)


@needs_slurm
def test_srun_runs_on_both_nodes_and_passes_the_exit_status_on(cluster):
    done = cluster.run(["srun", "-N2", "printenv", "SLURMD_NODENAME"])
    assert sorted(done.stdout.split()) == ["n1", "n2"]
    assert cluster.run(["srun", "sh", "-c", "exit 7"]).returncode == 7


@pytest.fixture(scope="module")
def preempted(place):
    """A cluster in which a job of `high` has taken the nodes of one of `low`: (cluster, low, high,
    since).
    """
    with Cluster(place / "preempted", grace=0) as cluster:
        script = "echo life ${SLURM_RESTART_COUNT-unset}; exec sleep 600"
        low = cluster.submit(
            "--exclusive", "-N2", "--open-mode=append", "-o", place / "low", "--wrap", script
        )
        cluster.wait_for(low, "RUNNING")
        high = cluster.submit(
            "-p", "high", "--exclusive", "-N2", "--wrap", "sleep 1", "-o", "/dev/null"
        )
        cluster.wait_for(high, "RUNNING")
        yield cluster, low, high, time.monotonic()


@needs_slurm
def test_a_job_of_high_takes_the_nodes_of_one_of_low_which_is_requeued(preempted):
    cluster, low, high, _ = preempted
    assert (cluster.job(high)["NodeList"], cluster.job(low)["JobState"]) == ("n[1-2]", "PENDING")


@needs_slurm
@needs_cc
def test_a_time_limit_ends_a_job_within_seconds(cluster):
    job = cluster.submit("-t", "10", "--wrap", "exec sleep 600", "-o", "/dev/null")
    cluster.wait_for(job, "RUNNING")
    cluster.run(["scontrol", "update", f"jobid={job}", "EndTime=now+1"], check=True)
    cluster.wait_for(job, "TIMEOUT", seconds=28)  # Slurm looks every 30 s


JOB = """#!/bin/bash
trap 'echo shell TERM' TERM
{python} -S {listen} child &
srun {python} -S {listen} task &
while :; do wait; done
"""
LISTEN = """
import os, signal, sys, time
def say(*words): os.write(1, (" ".join(map(str, [sys.argv[1], *words])) + "\\n").encode())
def tell(number, frame): say(signal.Signals(number).name)
signal.signal(signal.SIGTERM, tell)
signal.signal(signal.SIGUSR1, tell)
say("ready", os.getpid())
while True: time.sleep(1)
"""


@needs_slurm
@needs_cc
@pytest.mark.parametrize(
    "proctrack,child_too", [("cgroup", False), ("direct", False), ("pgid", True)]
)
def test_whom_a_signal_reaches(place, tmp_path, proctrack, child_too):
    if proctrack == "cgroup" and not freezer.possible():
        pytest.skip("proctrack/cgroup needs root and a v1 freezer")
    out = tmp_path / "out"
    (tmp_path / "listen.py").write_text(LISTEN)
    (tmp_path / "job.sh").write_text(
        JOB.format(python=sys.executable, listen=tmp_path / "listen.py")
    )

    def said(*words: str) -> str:
        assert wait_until(lambda: all(word in out.read_text() for word in words), 60), (
            out.read_text()
        )
        return out.read_text()

    # kill_wait: the child is asked after scancel, and SIGKILL must not be faster, however busy the
    # machine is
    with Cluster(place / proctrack, nodes=1, proctrack=proctrack, kill_wait=60) as cluster:
        assert cluster.status().proctrack == proctrack
        out.touch()
        job = cluster.submit("-o", out, tmp_path / "job.sh")
        child = int(said("child ready", "task ready").partition("child ready")[2].split()[0])
        cluster.run(["scancel", job], check=True)
        said("shell TERM", "task SIGTERM")
        # whatever reached it before, it tells before this or just after
        os.kill(child, signal.SIGUSR1)
        said("child SIGUSR1")
        os.kill(child, signal.SIGUSR1)
        assert wait_until(lambda: out.read_text().count("child SIGUSR1") == 2, 60)
        assert ("child SIGTERM" in out.read_text()) == child_too


# --- it touches nothing else ----------------------------------------------------------------------


@needs_slurm
def test_the_daemons_listen_on_loopback_alone(shared):
    assert shared.status().only_loopback or preload.compiler() is None
    keeper = shared.pids()["keeper"]
    bound = [
        c.laddr.ip
        for pid in processes.descendants(keeper)
        for c in psutil.Process(pid).net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    ]
    assert len(bound) >= 3  # slurmctld, n1, n2
    assert not shared.status().only_loopback or set(bound) == {"127.0.0.1"}


@needs_slurm
def test_the_directory_is_the_users_alone_and_holds_all_state(shared):
    assert shared.directory.stat().st_mode & 0o777 == 0o700
    assert (shared.directory / "munge" / "key").stat().st_mode & 0o777 == 0o600
    for name, pid in shared.pids().items():
        # newer ones hold their own program open
        files = [Path(f.path) for f in psutil.Process(pid).open_files() if f.mode != "r"]
        assert all(shared.directory in f.parents for f in files), (name, files)


@needs_slurm
def test_another_clusters_environment_is_left_alone_and_not_passed_on(shared, monkeypatch):
    theirs = {
        "SLURM_CONF": "/etc/slurm/slurm.conf",
        "SLURM_JOB_ID": "77",
        "SBATCH_PARTITION": "gpu",
        "SQUEUE_FORMAT": "%all",
    }
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    assert not set(theirs) - {"SLURM_CONF"} & set(shared.env)
    assert shared.env["SLURM_CONF"] == str(shared.conf)
    assert shared.run(["srun", "printenv", "SLURM_CONF"]).stdout.strip() == str(shared.conf)
    assert {name: os.environ[name] for name in theirs} == theirs


@needs_slurm
def test_clusters_started_at_once_stay_apart(place):
    names = ["a", "b", "c"]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "grader", "cluster", "up", "--name", name, "--nodes", "1"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "GRADE_CLUSTERS": str(place / "many"), "PYTHONPATH": str(ROOT)},
        )
        for name in names
    ]
    try:
        assert [(p.communicate(timeout=60)[1], p.returncode) for p in started] == [(b"", 0)] * 3
        clusters = [Cluster(place / "many" / name) for name in names]
        jobs = [
            c.submit("-J", c.directory.name, "--wrap", "exec sleep 600", "-o", "/dev/null")
            for c in clusters
        ]
        assert jobs == ["1", "1", "1"]
        for one in clusters:
            one.wait_for("1", "RUNNING")
        clusters[0].run(["scancel", "1"], check=True)
        clusters[0].wait_for("1", "CANCELLED")
        clusters[1].stop()
        # the namesake on n1 elsewhere wasn't meant
        assert clusters[2].wait_for("1", "RUNNING")["JobName"] == "c"
    finally:
        done = grade_cluster(place / "many", "down", "--all")
    assert done.returncode == 0 and not (place / "many").exists()


def test_a_held_port_is_refused_to_others_but_not_to_slurm(monkeypatch):
    (held,) = ports.hold(1)
    number = held.getsockname()[1]
    monkeypatch.setattr(ports, "FIRST", number)
    monkeypatch.setattr(ports, "LAST", number + 1)
    with pytest.raises(ClusterError, match="no 1 free ports"):
        ports.hold(1)
    assert not ports.listening(number)
    with socket.socket() as slurm:
        slurm.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        slurm.bind(("127.0.0.1", number))
        slurm.listen()
        assert ports.listening(number)
    ports.release([held])


@needs_slurm
@pytest.mark.parametrize("times", [1, 99])
def test_a_port_that_somebody_takes_meanwhile_is_given_up_for_another(
    place, tmp_path, monkeypatch, times
):
    keeper = tmp_path / "supervisor.py"
    keeper.write_text(
        f"import sys, socket; sys.path.insert(0, {str(ROOT)!r}); from grader.slurm import "
        "supervisor, ports\n"
        f"hold, thieves = ports.hold, []\n"
        f"def stolen(count):\n"
        f"    held = hold(count)\n"
        f"    if len(thieves) < {times}:\n"
        "        thief = socket.socket(); thief.setsockopt(socket.SOL_SOCKET, "
        "socket.SO_REUSEADDR, 1)\n"
        f"        thief.bind(held[-1].getsockname()); thief.listen(); thieves.append(thief)\n"
        f"    return held\n"
        f"ports.hold = stolen; supervisor.main()\n"
    )
    monkeypatch.setattr(cluster_module, "SUPERVISOR", keeper)
    cluster = Cluster(place / "taken", nodes=1)
    if times == 1:
        with cluster:
            assert cluster.run(["srun", "true"]).returncode == 0
    else:
        with pytest.raises(ClusterError, match="other processes took our ports"):
            cluster.start()
    assert not cluster.directory.exists() and not processes.belonging(str(cluster.directory))


# --- nothing of it is left ------------------------------------------------------------------------

LEAVES = (
    "#!/bin/bash\n(setsid env -i sleep 600 &)\nsetsid sleep 600 &\nsrun bash -c 'setsid "
    "sleep 600 & wait' &\nexec sleep 600\n"
)


def at_work(cluster: Cluster, folder: Path, seconds: float = 10) -> list[dict]:
    """Every process of the cluster, with a job that has sent some into sessions of their own, one
    without environment.
    """
    (folder / "job.sh").write_text(LEAVES)
    job = cluster.submit("-N2", "-o", "/dev/null", folder / "job.sh")
    cluster.wait_for(job, "RUNNING")

    def sleeping() -> int:
        return sum(
            b"sleep\x00600" in Path(f"/proc/{p['pid']}/cmdline").read_bytes()
            for p in everything(cluster)
            if processes.alive(p)
        )

    # srun's is on two nodes
    assert wait_until(lambda: sleeping() == 5, seconds), sleeping()
    return everything(cluster)


@needs_slurm
@pytest.mark.parametrize("victim", [None, "n1", "slurmctld", "munged", "keeper"])
def test_down_leaves_nothing_whoever_has_died_before(place, tmp_path, victim):
    cluster = Cluster(place / "down")
    cluster.start(stay=True)
    # a second
    known = everything(cluster) if victim in ("slurmctld", "munged") else at_work(cluster, tmp_path)
    if victim:
        dead = processes.identity(cluster.pids()[victim])
        os.kill(dead["pid"], signal.SIGKILL)
        assert wait_until(lambda: not processes.alive(dead), 60)
        status = cluster.status()
        assert status.phase == ("dead" if victim == "keeper" else "broken")
        assert len(status.problems) == 1 and victim in status.problems[0]
    cluster.stop()
    # nobody knows any more whose the one without environment was
    if victim == "keeper" and not freezer.possible():
        known = [p for p in known if not processes.alive(p) or processes.kill([p["pid"]])]
    assert gone(known, cluster, 0)
    cluster.stop()  # nothing to do


def ends_with_its_grader(cluster: Cluster, folder: Path, seconds: float = 10) -> None:
    """Started by another process, which is killed, it ends with all of its jobs."""
    kind = type(cluster).__name__
    code = (
        f"import sys, time; from grader.slurm import {kind}\n"
        f"with {kind}(sys.argv[1]) as c: print(c.seconds, flush=True); time.sleep(600)\n"
    )
    grader = subprocess.Popen(
        [sys.executable, "-c", code, cluster.directory],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert grader.stdout.readline()
    known = at_work(cluster, folder, seconds)
    grader.kill()
    grader.communicate()
    assert gone(known, cluster)


@needs_slurm
def test_when_the_grader_is_killed_its_cluster_ends(place, tmp_path):
    ends_with_its_grader(Cluster(place / "lost"), tmp_path)


@needs_slurm
def test_a_start_that_is_cut_short_leaves_nothing(place):
    """Whenever its starter is killed: at the times of a start, from its first process to its
    last.
    """
    env = {**os.environ, "GRADE_CLUSTERS": str(place / "cut"), "PYTHONPATH": str(ROOT)}
    cluster = Cluster(place / "cut" / "lab")
    for daemon in (None, "munged", "slurmctld", "n2"):
        starter = subprocess.Popen(
            [sys.executable, "-m", "grader", "cluster", "up"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            env=env,
        )

        def there(starter=starter, daemon=daemon) -> bool:
            return starter.poll() is not None or (
                daemon in cluster.pids() if daemon else cluster.directory.exists()
            )

        assert wait_until(there, 20, at_most=0.001)
        starter.kill()
        starter.wait()
        done = grade_cluster(place / "cut", "down")
        assert (done.returncode, done.stderr) == (0, "")
        # a keeper that was between fork and exec then, seen by nobody, finds its lifeline cut and
        # ends by itself
        assert wait_until(lambda: not processes.belonging(str(cluster.directory)), 60)
        assert not cluster.directory.exists()


@needs_slurm
def test_a_cluster_whose_directory_is_removed_ends(place):
    cluster = Cluster(place / "removed", nodes=1)
    cluster.start(stay=True)
    known = everything(cluster)
    shutil.rmtree(cluster.directory, ignore_errors=True)
    assert gone(known, cluster)


@needs_slurm
def test_a_daemon_that_doesnt_start_is_told_in_its_own_words(place):
    with pytest.raises(
        ClusterError, match="didn't start: slurmctld ended when it was started(.|\n)*NoSuchType"
    ):
        Cluster(place / "bad", settings={"SelectType": "select/NoSuchType"}).start()
    assert not (place / "bad").exists() and not processes.belonging(str(place / "bad"))


def test_a_pid_that_was_given_out_again_is_never_signalled():
    child = subprocess.Popen(["sleep", "60"])
    known = processes.identity(child.pid)
    assert processes.alive(known)
    reused = known | {"start": known["start"] - 1}
    assert not processes.alive(reused) and not processes.send(reused, signal.SIGKILL)
    assert child.poll() is None
    assert processes.send(known, signal.SIGKILL)
    child.wait()
    assert not processes.alive(known) and not processes.send(known, signal.SIGKILL)


@needs_slurm
def test_the_job_that_was_preempted_has_started_again_within_seconds(preempted, place):
    cluster, low, _, since = preempted  # it had all the tests between for it
    assert cluster.wait_for(low, "RUNNING")["Restarts"] == "1"
    started = time.mktime(time.strptime(cluster.job(low)["StartTime"], "%Y-%m-%dT%H:%M:%S"))
    # Slurm's default is two minutes
    assert started - (time.time() - (time.monotonic() - since)) < 100
    assert wait_until(lambda: (place / "low").read_text().split("\n")[-2] == "life 1", 60)
    assert (place / "low").read_text().startswith("life unset\n")


def test_state_that_is_no_state_counts_as_dead(place):
    cluster = Cluster(place / "odd")
    for text in ("", "[]", "{}", '{"boot": 1', "\x00"):
        cluster.directory.mkdir()
        (cluster.directory / "cluster.json").write_text(text)
        assert cluster.status().phase == "dead"
        cluster.stop()
        assert not cluster.directory.exists()
