"""What a job script can reach: its own folder, the cluster, and nothing else."""

from __future__ import annotations

import os
import sys
import time

import pytest

from grader.course.catalog import ROOT
from grader.harness import sandbox
from grader.slurm import Cluster, StandIn
from grader.slurm.backend import missing as select_missing

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has namespaces and Landlock"
)

SCRIPT = """#!/bin/bash
#SBATCH -o job.log
tried() { if "$@" >/dev/null 2>&1; then echo "got $*"; else echo "refused $*"; fi; }
tried cat SECRET
tried cat SOLUTION
tried ls ROOT
tried touch OUTSIDE/x
tried touch /tmp/grade-test-x
tried kill -0 GRADER
tried cat CLUSTER/munge/key
tried touch CLUSTER/state/x
cat <<end > heredoc
works
end
srun bash -c 'cat SECRET || echo refused in a step'
squeue -h -o %i > queue
env | grep of-the-caller && echo got the environment
echo done
"""


@pytest.mark.parametrize("kind", ["slurm", "stand-in"])
def test_a_job_script_reaches_its_own_folder_alone(short_path, ex01, kind, monkeypatch):
    monkeypatch.setenv("GRADE_SECRET", "of-the-caller")
    if kind == "slurm" and (missing := select_missing()):
        pytest.fail(f"Slurm is missing: {missing}") if os.environ.get("GRADE_CI") else pytest.skip(
            f"no Slurm: {missing}"
        )
    if not sandbox.jobs_can_be_confined():
        pytest.skip("no Landlock")
    work, outside = short_path / "work", short_path / "outside"
    work.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("x")
    words = {
        "SECRET": outside / "secret",
        "SOLUTION": ex01.solution / ex01.module,
        "ROOT": ROOT,
        "OUTSIDE": outside,
        "GRADER": os.getpid(),
        "CLUSTER": short_path / "c",
    }
    text = SCRIPT
    for word, value in words.items():
        text = text.replace(word, str(value))
    (work / "job.sh").write_text(text)
    made = Cluster if kind == "slurm" else StandIn
    with made(short_path / "c", nodes=1, jobs_write=[work]) as cluster:
        done = cluster.run(
            ["sbatch", "-W", "job.sh"], cwd=work, env={**cluster.env, "TMPDIR": str(work)}
        )
        shown = (work / "job.log").read_text()
    assert done.returncode == 0, done.stderr + shown
    assert "got" not in shown and shown.count("refused") == 9 and shown.endswith("done\n"), shown
    assert (work / "heredoc").read_text() == "works\n" and (work / "queue").read_text().strip()


def test_the_standin_writes_no_log_outside_of_the_jobs_folder(short_path):
    """sbatch -o names any file; where a real cluster's slurmd is confined, the stand-in looks
    itself.
    """
    work, outside = short_path / "work", short_path / "outside"
    work.mkdir()
    outside.mkdir()
    (work / "link").symlink_to(outside)
    with StandIn(short_path / "c", nodes=1, jobs_write=[work]) as cluster:
        for out in (outside / "log", "link/log", "../outside/log"):
            cluster.run(["sbatch", "-W", "-o", str(out), "--wrap", "true"], cwd=work)
    assert list(outside.iterdir()) == []


def test_a_job_gets_no_longer_grace_by_a_longer_time_limit(short_path):
    longer = "scontrol update jobid=$SLURM_JOB_ID timelimit=60; sleep 0.2;"
    low = ["sbatch", "-W", "-p", "low", "--no-requeue", "-o", "job.log"]
    with StandIn(short_path / "c", nodes=1, cpus=1, grace=1, kill_wait=1) as cluster:
        script = f"(sleep 1; sbatch -p high --wrap true) & for n in $(seq 900); do {longer} done"
        began = time.monotonic()
        cluster.run([*low, "--wrap", script], cwd=short_path)
        assert time.monotonic() - began < 90  # the script takes three minutes
