"""templates/auto_resume.sbatch on a real cluster: whatever happens, the run ends where an
undisturbed run ends.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from grader.course.catalog import ROOT
from grader.processes import wait_until
from grader.slurm import Cluster, ClusterError, installation, ports, preload
from grader.tests.conftest import IN_CI

SCRIPT = ROOT / "templates" / "auto_resume.sbatch"
JOBS = Path(__file__).parent / "jobs"
TINY = (
    "--epochs",
    "1",
    "--batch-size",
    "4",
    "--width",
    "16",
    "--layers",
    "1",
    "--workers",
    "0",
    "--save-every-steps",
    "4",
)
SMALL, SMALL_ON_TWO = (*TINY, "--samples", "48"), (*TINY, "--samples", "96")  # twelve steps each
PATIENCE = 240  # s that nothing takes, also on a machine that does much else
SCENARIOS: dict = {}


def missing() -> str:
    try:
        installation.find()
    except ClusterError as e:
        return str(e)
    return "" if preload.compiler() else "no C compiler here: time limits take half a minute"


needs_slurm = pytest.mark.skipif(bool(missing()) and not IN_CI, reason=missing() or "there")


class Run:
    """One run of the script: its job, its log, its checkpoints. `stub`: what happens in each of its
    lives.
    """

    def __init__(self, cluster: Cluster, top: Path, port: int):
        self.cluster, self.top, self.port, self.checkpoints = (
            cluster,
            top,
            port,
            top / "checkpoints" / "train",
        )
        self.happened = top / "happened"
        self.happened.mkdir(parents=True)
        self.job = ""

    def submit(self, *args, options=(), script=SCRIPT, name="train", **env) -> str:
        env = (
            self.cluster.env
            | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "HAPPENED": str(self.happened)}
            | env
        )
        env["PORT"] = str(self.port)  # job ids are another cluster's, too
        env.setdefault("TRAIN", str(JOBS / "sbatch_train.py"))
        # an instructor's three lines: partition and time; this cluster has no accounts
        line = [
            "-p",
            "low",
            "-t",
            "30",
            "-c1",
            "-J",
            name,
            "--exclusive",
            "-o",
            self.top / "log",
            *options,
        ]
        self.job = self.cluster.submit(*line, script, *args, env=env, cwd=self.top)
        return self.job

    def stub(self, *events, **more) -> str:
        return self.submit(
            *events, **{"PYTHON": "bash", "TRAIN": str(JOBS / "sbatch_stub.sh")} | more
        )

    def ended(self, *states: str) -> dict:
        return self.cluster.wait_for(
            self.job, *(states or ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")), seconds=PATIENCE
        )

    def await_file(self, path: Path) -> None:
        assert wait_until(path.exists, PATIENCE), f"{path} never came\n{self.log}"

    def held(self, step: int) -> None:
        self.await_file(self.happened / f"hold-{step}")

    def holding(self, life: int) -> None:
        self.await_file(self.checkpoints / f"holding-{life}")

    # --- what may happen to it

    def preempt(self) -> None:
        nodes = self.cluster.job(self.job)
        take = [
            "-p",
            "high",
            "--exclusive",
            "-o",
            "/dev/null",
            "-w",
            nodes["NodeList"],
            "-N",
            nodes["NumNodes"],
        ]
        high = self.cluster.submit(*take, "--wrap", "sleep 1")
        self.cluster.wait_for(high, "COMPLETED", seconds=PATIENCE)

    def end_in(self, seconds: int) -> None:
        end = (datetime.now() + timedelta(seconds=seconds)).isoformat(timespec="seconds")
        self.cluster.run(["scontrol", "update", f"jobid={self.job}", f"EndTime={end}"], check=True)

    def time_limit(self) -> None:
        """Comes near: the warning of 120 s before it is sent at once. The next life has the old
        limit.
        """
        self.end_in(100)
        self.cluster.wait_for(self.job, "PENDING", seconds=PATIENCE)
        self.cluster.run(["scontrol", "update", f"jobid={self.job}", "TimeLimit=30"], check=True)

    def queue(self) -> list[str]:
        """Its jobs that wait or run."""
        said = self.cluster.run(
            ["squeue", "-h", "-r", "-o", "%i %Z"], check=True
        ).stdout.splitlines()
        return [line.split()[0] for line in said if line.split()[1] == str(self.top)]

    # --- what came of it

    @property
    def log(self) -> str:
        return (self.top / "log").read_text() if (self.top / "log").exists() else ""

    @property
    def lives(self) -> int:
        return len(re.findall("^auto_resume: job .*, life ", self.log, re.M))

    @property
    def statuses(self) -> list[int]:
        """The training's, of each life, as the script saw them."""
        return [int(n) for n in re.findall(r"the training has ended with status (\d+)", self.log)]

    @property
    def weights(self) -> list[str]:
        return re.findall(r"done at step 12; weights ([0-9a-f]{64})", self.log)

    @property
    def resumed(self) -> list[int]:
        return [int(n) for n in re.findall(r"resumed from .*/step-0*(\d+)-", self.log)]

    @property
    def outcome(self) -> str:
        return json.loads((self.checkpoints / "status.json").read_text())["outcome"]

    @property
    def restarts(self) -> str:
        return self.cluster.job(self.job)["Restarts"]


@pytest.fixture(scope="module")
def scenarios():
    """Every scenario's future: they all run at the same time, each on nodes of its own."""
    assert not missing(), missing()
    with (
        tempfile.TemporaryDirectory(dir="/tmp", prefix="s") as top,
        ThreadPoolExecutor(len(SCENARIOS)) as pool,
        Cluster(Path(top) / "c", nodes=12, fast_limits=True) as cluster,
    ):
        held = ports.hold(len(SCENARIOS))
        places = zip(SCENARIOS.items(), held, strict=True)
        yield {
            name: pool.submit(drive, Run(cluster, Path(top) / name, port.getsockname()[1]))
            for (name, drive), port in places
        }
        ports.release(held)


def scenario(drive):
    """Begins when all others do; a test looks at the Run that it returns: result(scenarios,
    NAME).
    """
    SCENARIOS[drive.__name__] = drive
    return drive


def result(scenarios: dict[str, Future], name: str) -> Run:
    return scenarios[name].result(timeout=2 * PATIENCE)


# --- the training itself: bit for bit -------------------------------------------------------------


@scenario
def undisturbed(run):
    run.submit(*SMALL)
    run.ended()
    return run


@scenario
def disturbed(run):
    run.submit(*SMALL, HAPPEN="hold:2 kill:6 hold:7 hold:10")
    run.held(2)
    run.preempt()
    run.held(7)
    run.cluster.run(["scancel", "--signal=TERM", run.job], check=True)
    run.held(10)
    run.time_limit()
    run.ended()
    return run


@scenario
def undisturbed_on_two(run):
    run.submit(*SMALL_ON_TWO, options=["-N2"])
    run.ended()
    return run


@scenario
def preempted_on_two(run):
    run.submit(*SMALL_ON_TWO, options=["-N2"], HAPPEN="hold:6")
    run.held(6)
    run.await_file(run.happened / "hold-6.1")
    run.preempt()
    run.ended()
    return run


@needs_slurm
def test_an_undisturbed_run_ends_with_0_and_is_not_submitted_again(scenarios):
    run = result(scenarios, "undisturbed")
    ended = run.cluster.job(run.job)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", "0"), (
        run.log
    )
    assert len(run.weights) == 1 and run.outcome == "done" and run.queue() == []


@needs_slurm
def test_a_run_preempted_killed_signalled_and_at_its_time_limit_ends_where_an_undisturbed_one_ends(
    scenarios,
):
    run = result(scenarios, "disturbed")
    assert run.cluster.job(run.job)["JobState"] == "COMPLETED", run.log
    assert (run.restarts, run.lives) == ("4", 5), run.log
    assert run.statuses == [75, 137, 75, 75, 0]  # and none of them was cut short
    # saved when told to: steps 2, 7 and 10; killed in step 6: from the last one due
    assert run.resumed == [2, 4, 7, 10], run.log
    assert "warning: asking the training to save" in run.log
    assert run.weights == result(scenarios, "undisturbed").weights


@needs_slurm
def test_two_nodes_under_torchrun_preempted_end_where_undisturbed_ones_end(scenarios):
    run, whole = result(scenarios, "preempted_on_two"), result(scenarios, "undisturbed_on_two")
    assert len(whole.weights) == 1 and whole.lives == 1, whole.log
    assert run.cluster.job(run.job)["NodeList"].count("-") == 1  # n[3-4]: two
    assert run.resumed == [6] and run.lives == 2, run.log
    assert run.weights == whole.weights


# --- how a life ends, and what comes then: a stub in place of the training ------------------------


@scenario
def preempted(run):
    run.stub("hold")
    run.holding(1)
    run.preempt()
    run.ended()
    return run


@scenario
def timed_out(run):
    run.stub("hold", options=["--signal=B:URG@1"])  # no warning: the limit itself
    run.holding(1)
    run.end_in(1)
    run.cluster.wait_for(run.job, "PENDING", seconds=PATIENCE)
    run.cluster.run(["scontrol", "update", f"jobid={run.job}", "TimeLimit=30"], check=True)
    run.ended()
    return run


@scenario
def crashing(run):
    run.stub("crash", "hold", *["crash"] * 9)  # a new checkpoint in between: the count begins anew
    run.holding(2)
    run.cluster.run(["scancel", "--signal=TERM", run.job], check=True)
    run.ended("COMPLETED", "FAILED")
    return run


@scenario
def before_python(run):
    run.stub("done", PYTHON="/no/such/python", MAX_FAILED="2")
    run.ended("COMPLETED", "FAILED")
    return run


@scenario
def done_and_requeued(run):
    run.stub("done")
    run.ended()
    run.cluster.run(["scontrol", "requeue", run.job], check=True)
    assert wait_until(lambda: "nothing to do" in run.log, PATIENCE), run.log
    run.ended()
    return run


@scenario
def cancelled(run):
    run.stub("hold")
    run.holding(1)
    run.cluster.run(["scancel", run.job], check=True)
    assert wait_until(lambda: "has ended with status" in run.log, PATIENCE), run.log
    # longer than a requeue would take to be seen: the job is over when its node is free again
    assert wait_until(lambda: run.queue() == [], PATIENCE)
    return run


@scenario
def chained(run):
    run.submit(*SMALL, RESUBMIT="chain", HAPPEN="hold:6 kill:9")
    run.held(6)
    run.cluster.run(["scancel", "--signal=TERM", run.job], check=True)
    assert wait_until(lambda: run.outcome == "done" and run.queue() == [], PATIENCE), run.log
    return run


@scenario
def chained_and_requeued_by_slurm(run):
    run.stub("hold", "hold", RESUBMIT="chain")
    run.holding(1)
    run.waiting = [len(run.queue())]
    run.cluster.run(["scontrol", "requeue", run.job], check=True)  # as after a dead node
    run.holding(2)
    run.waiting.append(len(run.queue()))
    run.cluster.run(["scancel", run.job], check=True)
    assert wait_until(lambda: run.queue() == [], PATIENCE), run.log
    return run


@scenario
def chained_crashes(run):
    run.stub(*["crash"] * 9, RESUBMIT="chain")
    assert wait_until(lambda: "giving up" in run.log and run.queue() == [], PATIENCE), run.log
    return run


@scenario
def array(run):
    run.submit(*SMALL, options=["--array=1-9%1"], HAPPEN="hold:6 kill:9")
    run.held(6)
    run.cluster.run(["scancel", "--signal=TERM", f"{run.job}_1.0"], check=True)
    assert wait_until(lambda: run.log and run.queue() == [], PATIENCE), run.log
    return run


@needs_slurm
def test_a_preempted_life_is_followed_by_another_and_the_log_goes_on(scenarios):
    run = result(scenarios, "preempted")
    assert run.cluster.job(run.job)["JobState"] == "COMPLETED"
    assert re.findall("stub: life . (\\w+)|stub: life (\\d: \\w+)", run.log) and run.lives == 2, (
        run.log
    )
    assert "stub: life 1: hold" in run.log and "stub: life 2: done" in run.log


@needs_slurm
def test_the_training_is_told_when_its_time_is_up(scenarios):
    left = re.search(r"life 1: hold; ends in (\d+)", result(scenarios, "preempted").log)
    assert 1700 < int(left[1]) <= 1800  # -t 30


@needs_slurm
def test_a_life_that_ends_at_the_time_limit_itself_is_followed_by_another(scenarios):
    run = result(scenarios, "timed_out")
    assert (
        "COMPLETING (TimeLimit)" in run.log and run.cluster.job(run.job)["JobState"] == "COMPLETED"
    ), run.log
    assert "stub: life 2: done" in run.log


@needs_slurm
def test_a_crash_loop_ends_with_1_after_three_lives_without_a_new_checkpoint(scenarios):
    run = result(scenarios, "crashing")
    ended = run.cluster.job(run.job)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "1:0"), run.log
    # crash, hold, and three
    assert run.lives == 5 and "giving up: 3 lives in a row failed" in run.log, run.log


@needs_slurm
def test_a_crash_loop_that_never_comes_to_python_ends_too(scenarios):
    run = result(scenarios, "before_python")
    assert run.cluster.job(run.job)["ExitCode"] == "1:0", run.log
    assert run.lives == 2 and "giving up: 2 lives in a row failed" in run.log, run.log


@needs_slurm
def test_a_done_job_that_is_requeued_does_nothing(scenarios):
    run = result(scenarios, "done_and_requeued")
    assert run.cluster.job(run.job)["JobState"] == "COMPLETED" and run.restarts == "1", run.log
    assert run.log.count("stub: life") == 1 and run.queue() == [], run.log


@needs_slurm
def test_a_cancelled_job_stays_cancelled_with_its_work_saved(scenarios):
    run = result(scenarios, "cancelled")
    assert (run.cluster.job(run.job)["JobState"], run.restarts) == ("CANCELLED", "0"), run.log
    assert run.outcome == "preempted"


@needs_slurm
def test_a_chain_ends_where_an_undisturbed_run_ends_and_leaves_nothing_in_the_queue(scenarios):
    run = result(scenarios, "chained")
    assert run.weights == result(scenarios, "undisturbed").weights, run.log
    assert run.lives == 3 and run.resumed == [6, 8], run.log


@needs_slurm
def test_a_chained_job_that_slurm_requeues_has_one_successor(scenarios):
    run = result(scenarios, "chained_and_requeued_by_slurm")
    # one at work and one that waits, in both lives; none after scancel
    assert run.waiting == [2, 2], run.log
    assert run.lives == 2


@needs_slurm
def test_a_chains_crash_loop_ends_too(scenarios):
    run = result(scenarios, "chained_crashes")
    assert run.lives == 3 and "giving up: 3 lives in a row failed" in run.log, run.log


@needs_slurm
def test_an_arrays_tasks_are_lives_of_one_run_and_the_rest_is_cancelled(scenarios):
    run = result(scenarios, "array")
    assert run.weights == result(scenarios, "undisturbed").weights, run.log
    assert run.lives == 3 and run.resumed == [6, 8], run.log
    assert "nothing to do" not in run.log  # cancelled, not started in vain


# --- before anything runs -------------------------------------------------------------------------


@scenario
def refused(run):
    """Jobs that can't work, each with what its log must say."""
    (run.top / "file").touch()
    jobs = {
        "no training script /no/train.py": {"TRAIN": "/no/train.py"},
        "can't be written": {"CHECKPOINTS": str(run.top / "file" / "below")},
        "may not be requeued": {"options": ["--no-requeue"]},
        "--array=1-10%1": {"options": ["--array=1-2"]},
        "RESUBMIT=never": {"RESUBMIT": "never"},
        "set CHECKPOINTS": {"args": ["--directory", "x"]},
        "would start over": {"args": ["--resume", "never"]},
    }
    run.refused = {}
    for n, (says, how) in enumerate(jobs.items()):
        log = run.top / f"log-{n}"
        how = {"options": [], "args": []} | how
        options = ["-o", log, *how.pop("options")]
        job = run.stub(*how.pop("args"), options=options, **how)
        run.refused[says] = (
            log,
            run.cluster.wait_for(job, "COMPLETED", "FAILED", seconds=PATIENCE),
        )
    return run


@needs_slurm
def test_what_cant_work_is_said_in_one_line_before_anything_runs(scenarios):
    for says, (log, job) in result(scenarios, "refused").refused.items():
        said = log.read_text().strip().splitlines()
        assert job["ExitCode"] == "2:0" and says in said[0], (says, said)
        assert len(set(said)) == 1, said


def test_outside_of_slurm_it_says_how_it_is_submitted(tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    done = subprocess.run(
        ["bash", SCRIPT], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2 and "sbatch" in done.stderr and done.stderr.count("\n") == 1, (
        done.stderr
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    shutil.which("shellcheck") is None and not IN_CI, reason="no shellcheck here (make slurm)"
)
@pytest.mark.parametrize("script", [SCRIPT, JOBS / "sbatch_stub.sh"], ids=lambda p: p.name)
def test_shellcheck_has_nothing_to_say(script):
    done = subprocess.run(
        ["shellcheck", "--shell=bash", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout
