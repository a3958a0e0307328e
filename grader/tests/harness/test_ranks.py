"""Groups of ranks: a fault strikes one of them, a deadlock has a name, and none of them outlives
the others.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch

from grader.checks import endings, ranks
from grader.checks.ex02 import hangs
from grader.checks.ex02.observations import Seen
from grader.course import catalog, submissions
from grader.harness.faults import Kill
from grader.harness.inside.digest import digest
from grader.harness.inside.ranks import PATIENCE
from grader.harness.lab import Lab
from grader.harness.launcher import ForkServer, Limits, Plain
from grader.harness.run import Life, Process
from grader.harness.salts import Salts
from grader.harness.workbench import Bench, Cancelled
from grader.verdicts import Finding, Inconclusive

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the fork server is Linux's"
)
SAVE_JOB = ("ex02/train_ddp.py", "--functions", "save_job", "--epochs", 1)


@pytest.fixture(scope="module")
def ex02():
    return catalog.find("ex02")


@pytest.fixture
def labs(launcher, ex02):
    """Makes labs of the solution, or of a module with this code."""
    benches = []

    def make(code: str | None = None, limits: Limits | None = None, by=launcher) -> Lab:
        work = (
            submissions.submission(ex02, None, solution=True)
            if code is None
            else submissions.Submission(Path("own"), "own.py", {"own.py": code.encode()})
        )
        benches.append(Bench(work, by, seed=0, jobs=4, limits=limits))
        return Lab(benches[-1], "ranks")

    yield make
    for bench in benches:
        bench.close()


pytestmark = pytest.mark.needs_solution


@pytest.mark.parametrize("ranks", [2, 4])
def test_two_undisturbed_groups_are_equal_bit_for_bit_on_every_rank(labs, ranks):
    lab = labs()
    first, second = (lab.launch(*SAVE_JOB, ranks=ranks) for _ in range(2))
    assert first.finished and second.finished and first.world == ranks
    for rank in range(ranks):
        assert first.of(rank).trajectory == second.of(rank).trajectory
    # they train one model, each with samples and noise of its own
    step = [first.of(rank).trajectory.steps[2] for rank in range(ranks)]
    assert len({s["state"]["weights"] for s in step}) == 1
    assert (
        len({s["state"]["torch RNG"] for s in step})
        == len({tuple(s["indices"]) for s in step})
        == ranks
    )


def test_a_fault_strikes_the_rank_that_it_is_aimed_at(labs):
    run = labs().launch(*SAVE_JOB, faults=(Kill(5, rank=1),), ranks=2)
    killed, resumed = run.lives
    assert killed.died_of_fault and killed.processes[1].status == -signal.SIGKILL
    assert killed.processes[0].first("fault") is None and killed.processes[0].status == 1
    assert [life.resumed_at for life in resumed.processes] == [4, 4] and run.finished


def test_a_fault_that_never_fires_proves_nothing(labs):
    lab = labs()
    with pytest.raises(Inconclusive):
        endings.finished(lab, lab.launch(*SAVE_JOB, faults=(Kill(99, rank=1),), ranks=2))


NAIVE = """
import torch.distributed as dist
{imports}
def save_job(job, folder):
    if job.rank == 0:
        {waits}
def batches(job):
    return iter(job.loader)
"""


@pytest.mark.parametrize(
    "imports, waits, name",
    [
        ("", "dist.all_reduce(job.model.module.head.bias.data)", "all_reduce"),
        (
            "from torch.distributed import all_gather_object as everybody",
            "everybody([None] * 2, None)",
            "all_gather_object",
        ),
        (
            "from datetime import timedelta",
            "dist.barrier(group=dist.new_group([0], "
            "timeout=timedelta(hours=1))); "
            "dist.broadcast_object_list([0], 1)",
            "broadcast_object_list",
        ),
    ],
    ids=["plain", "imported_by_name", "a_group_of_its_own"],
)
def test_a_deadlock_names_the_rank_the_collective_and_the_line(labs, imports, waits, name):
    code = NAIVE.format(imports=imports, waits=waits)
    lab = labs(code)
    run = lab.launch(*SAVE_JOB, ranks=2)
    # by its own time limit, not by the guardian's
    assert all(life.ended is None for life in run.last.processes)
    with pytest.raises(Finding) as found:
        endings.finished(lab, run)
    line = code.splitlines().index("        " + waits) + 1
    assert found.value.cause == f"deadlock:own.py:{line} in save_job"
    rows = dict(found.value.rows)
    assert name in rows["rank 0"] and f"own.py:{line}" in rows["rank 0"]
    assert "training script" in rows["rank 1"]


def test_barriers_that_fit_by_accident_are_told(labs):
    lab = labs(NAIVE.format(imports="", waits="dist.barrier()"))
    with pytest.raises(Finding) as found:
        endings.finished(lab, lab.launch(*SAVE_JOB, ranks=2))
    parted = dict(found.value.rows)["parted"]
    assert (
        "rank 0 reached barrier, own.py:6 in save_job" in parted
        and "rank 1 reached barrier, train_ddp.py" in parted
    )


def test_the_first_rank_that_fails_is_named_and_not_those_that_lost_it(labs):
    lab = labs(
        "def save_job(job, folder):\n    if job.rank == 1:\n        raise ValueError('mine')\n"
        "def batches(job):\n    return iter(job.loader)\n"
    )
    with pytest.raises(Finding) as found:
        endings.finished(lab, lab.launch(*SAVE_JOB, ranks=2))
    assert found.value.cause == "crashed:ValueError:own.py:3"
    assert dict(found.value.rows)["rank"].startswith("1")


@pytest.mark.parametrize(
    "does, cause",
    [
        ("__import__('os')._exit(0)", "exit:0"),
        ("__import__('sys').exit(3)", "exit:3"),
        ("exec('while True: pass')", "limit:cpu"),
    ],
)
def test_what_one_rank_does_to_all_is_laid_at_its_door(labs, does, cause):
    code = (
        f"def save_job(job, folder):\n    if job.rank == 1:\n        {does}\ndef "
        "batches(job):\n    return iter(job.loader)\n"
    )
    lab = labs(code, Limits(cpu=3))
    run = lab.launch(*SAVE_JOB, ranks=2)
    with pytest.raises(Finding) as found:
        endings.finished(lab, run)
    assert found.value.cause == cause
    assert (
        "1" in dict(found.value.rows).get("rank", "") or "rank 1" in dict(found.value.rows)["ended"]
    )
    assert all(life.result["left_behind"] == 0 for life in run.last.processes)


def _process(*events: dict) -> Process:
    result = {"status": 1, "ended": None, "wall": 9, "cpu": 1, "left_behind": 0}
    return Process(Path("nowhere"), None, result).with_events(list(events))


def _waits(name: str, line: int, n: int = 3) -> dict:
    return {
        "event": "collective",
        "t": 92.0,
        "n": n,
        "name": name,
        "file": "/s/x-code/code/own.py",
        "line": line,
        "function": "save",
    }


def test_ranks_in_one_collective_that_wait_too_long_are_the_machines_fault():
    slow = ranks.deadlock([_process(_waits("barrier", 7)), _process(_waits("barrier", 7))], [])
    assert isinstance(slow, Inconclusive)
    for other in (_waits("all_reduce", 7), _waits("barrier", 8), _waits("barrier", 7, n=2)):
        assert not isinstance(
            ranks.deadlock([_process(_waits("barrier", 7)), _process(other)], []), Inconclusive
        )


def _gives_up(t: float) -> dict:
    return {"event": "collective failed", "n": 3, "type": "RuntimeError", "t": t}


def _late(seconds: float, rank: int = 1) -> list[Process]:
    """Rank 0 gave up at 100.0; before, one of them waited so long for a processor."""
    both = [
        _process(_waits("barrier", 7), _gives_up(100.0)),
        _process(_waits("all_reduce", 9, n=2), _gives_up(100.1)),
    ]
    both[rank].result = both[rank].result | {"stalls": [[93.0, 93.0 + seconds, seconds]]}
    return both


def test_a_rank_that_got_no_processor_while_another_waited_is_the_machines_fault():
    for rank in (0, 1):
        late = ranks.deadlock(_late(6.5, rank), [])
        assert isinstance(late, Inconclusive) and late.code == "starved"
        assert f"rank {rank} waited 6 s for a processor" in dict(late.rows)["machine"]
        assert isinstance(hangs.hang(_seen(_late(6.5, rank)), _late(6.5, rank), []), Inconclusive)
        assert ranks.deadlock(_late(2.0, rank), []).code == "deadlock"
    earlier = _late(0.0)
    earlier[1].result = earlier[1].result | {"stalls": [[80.0, 90.0, 10.0]]}
    assert ranks.deadlock(earlier, []).code == "deadlock"


def _seen(lives: list[Process]) -> Seen:
    return Seen({"ops": []}, lives, [life.events for life in lives], [{} for _ in lives])


def test_ranks_that_resume_at_different_steps_are_told(labs):
    run = labs().launch(*SAVE_JOB, ranks=2)
    run.last.processes[1].first("life")["step"] = 4
    with pytest.raises(Finding) as found:
        ranks.together(run)
    assert found.value.cause == "ranks-disagree"


def test_cancelling_ends_every_rank(ex02):
    launcher = ForkServer() if sys.platform.startswith("linux") else Plain()
    bench = Bench(
        submissions.Submission(
            Path("own"), "own.py", {"own.py": b"import time\ntime.sleep(600)\n"}
        ),
        launcher,
        seed=0,
        jobs=2,
    )
    ended = []

    def run():
        try:
            Lab(bench, "ranks").launch(*SAVE_JOB, ranks=2)
        except Cancelled:
            ended.append("cancelled")

    thread = threading.Thread(target=run)
    thread.start()
    while sum("importing" in p.read_text() for p in bench.scratch.glob("*/*/events")) < 2:
        thread.join(0.05)
        assert thread.is_alive()
    bench.cancel()
    thread.join()
    bench.close()
    assert ended == ["cancelled"]
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if launcher.mark in (p.info["cmdline"] or [])
    ]


@linux
def test_plain_processes_give_the_same_trajectories(labs):
    plain = Plain()
    try:
        there = labs(by=plain).launch(*SAVE_JOB, ranks=2)
        here = labs().launch(*SAVE_JOB, ranks=2)
        assert there.finished
        for rank in range(2):
            assert there.of(rank).trajectory == here.of(rank).trajectory
    finally:
        plain.close()


@linux
def test_four_ranks_share_one_core(labs):
    cores = os.sched_getaffinity(0)
    launcher = ForkServer()
    try:
        os.sched_setaffinity(0, {min(cores)})  # what it starts inherits this
        launcher.start()
        alone = labs(by=launcher).launch(*SAVE_JOB, ranks=4)
    finally:
        os.sched_setaffinity(0, cores)
        launcher.close()
    assert alone.finished
    assert alone.of(3).trajectory == labs().launch(*SAVE_JOB, ranks=4).of(3).trajectory


def test_torchrun_trains_the_same_job(labs, ex02, tmp_path, monkeypatch):
    """One true end-to-end launch: what the harness sets is what torchrun sets, but for the
    salts.
    """
    monkeypatch.setattr(Salts, "between", lambda *_: {})
    here = tmp_path / "harness" / "checkpoints"
    here.mkdir(parents=True)
    assert labs().launch(*SAVE_JOB, ranks=2, directory=here).finished
    there = tmp_path / "torchrun"
    script = catalog.ROOT / "grader" / "workload" / "ex02/train_ddp.py"
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        script,
        *SAVE_JOB[1:],
    ]
    arguments = ["--checkpoint", ex02.solution / ex02.module, "--directory", there]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRADE_")} | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, *map(str, command + arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 20,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    files = sorted(p.relative_to(here) for p in here.glob("after-*/*"))
    assert len(files) == 3  # after step 4: what is shared, and each rank's own
    for file in files:
        one, other = (torch.load(folder / file, weights_only=True) for folder in (here, there))
        assert digest(one) == digest(other), file


LEAVES = """
import atexit
from grader.harness.inside import ranks

class Held:
    def __del__(self):
        print("freed")

held = Held()
atexit.register(print, "atexit")
ranks.join("gloo")
ranks.leave(75)
print("went on")
"""


def test_a_rank_outside_the_harness_ends_without_freeing_what_gloo_may_hold(tmp_path):
    environment = os.environ | {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "RANKS_STORE": str(tmp_path / "store"),
        "PYTHONPATH": str(catalog.ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", LEAVES], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (75, "atexit\n"), done.stderr


def test_a_group_says_what_each_rank_said(tmp_path):
    processes = []
    for rank, text in enumerate(("a\nb\n", "c\n")):
        folder = tmp_path / str(rank)
        folder.mkdir()
        (folder / "output").write_text(text)
        processes.append(Process(folder, None, {"status": 0, "ended": None}))
    assert Life(processes, None).text() == "[rank 0] a\n[rank 0] b\n[rank 1] c\n"
