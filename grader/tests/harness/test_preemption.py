"""Signals at chosen points, and the scheduler's clock."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from grader.course import catalog, submissions
from grader.harness import faults, preemption
from grader.harness.lab import WORKLOAD, Lab
from grader.harness.preemption import both, send
from grader.harness.run import PREEMPTED
from grader.harness.workbench import Bench
from grader.report.stop_log import stop_log

TEXTS = [
    "term@7",
    "usr1@8:event2",
    "term@10:evaluation3",
    "term@0:start",
    "usr1@0:resume",
    "term@7:group",
    "term@7:agent:rank0",
    "term@7:rank1",
    "usr1@8:event2:group:rank1",
    "term@7,usr1@7:leaving0",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_preemption_is_what_its_text_says(text):
    parsed = faults.parse(text)
    assert str(parsed) == text and isinstance(parsed, preemption.Preempt)
    assert faults.parse_schedule(f"{text}+kill@9") == (parsed, faults.Kill(9))


@pytest.mark.parametrize(
    "text",
    [
        "term",
        "term@",
        "int@7",
        "term@7:event",
        "term@7:start3",
        "term@7:evaluation",
        "term@7,",
        "term@7,kill@9",
    ],
)
def test_what_is_no_preemption_is_no_fault(text):
    with pytest.raises(ValueError):
        faults.parse(text)


def test_each_rank_gets_its_own_signals():
    fault = both(send("term", 7, rank=0), send("usr1", 8, rank=1), send("usr1", 9))
    assert [str(fault.of_rank(r)) for r in (0, 1, 2)] == [
        "term@7:rank0,usr1@9",
        "usr1@8:rank1,usr1@9",
        "usr1@9",
    ]
    assert send("term", 7, rank=1).of_rank(0) is None


# --- in a job -------------------------------------------------------------------------------------

HEARS = """
import os, signal
heard = []
def worker_init(worker):
    pass
def main(make_job, directory, clock, grace):
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: heard.append(number))
    job = make_job()
    job.resume()
    while job.epoch < job.epochs:
        for batch in job.batches():
            before = len(heard)
            job.train_step(batch)
            if job.step % job.save_every == 0:
                job.save()
            {after}
        job.end_epoch([job.validate(p) for p in job.validation_parts()])
    return 0
"""


@pytest.fixture
def lab_of(launcher):
    """A lab for a submission that is this code."""
    benches = []

    def make(code: str) -> Lab:
        exercise = catalog.find("ex03")
        benches.append(
            Bench(
                submissions.Submission(
                    exercise.folder, exercise.module, {exercise.module: code.encode()}
                ),
                launcher,
                0,
                jobs=2,
            )
        )
        return Lab(benches[-1], "preemption")

    yield make
    for bench in benches:
        bench.close()


def leaves(when: str = "heard") -> str:
    return HEARS.format(after=f"if {when}: job.save(); return 75")


def test_a_signal_comes_in_the_middle_of_its_step(lab_of):
    lab = lab_of(leaves())
    life = lab.launch("ex03/train_preempt.py", faults=(send("usr1", 5),)).lives[0]
    assert life.preempted and life.obeyed_fault
    # 2 to begin, 4 steps, a save, half a step
    assert [(e["signal"], e["step"], e["clock"]) for e in life.all("signal")] == [("usr1", 5, 7.5)]
    assert [s["step"] for s in life.steps] == [1, 2, 3, 4, 5]


def test_sigkill_follows_when_the_grace_is_over_and_not_earlier(lab_of):
    lab = lab_of(HEARS.format(after="pass"))
    life = lab.launch("ex03/train_preempt.py", "--grace", 2.75, faults=(send("term", 2),)).lives[0]
    assert life.process.status == -signal.SIGKILL and not life.obeyed_fault
    sent, killed = life.first("signal"), life.first("killed")
    # in the save after step 4
    assert killed["clock"] - sent["clock"] == 2.75 and killed["during"] == "a save"


def test_the_second_signal_prolongs_nothing(lab_of):
    lab = lab_of(HEARS.format(after="pass"))
    life = lab.launch(
        "ex03/train_preempt.py", "--grace", 2.5, faults=(both(send("term", 2), send("usr1", 3)),)
    ).lives[0]
    assert life.first("killed")["clock"] - life.first("signal")["clock"] == 2.5
    assert len(life.all("signal")) == 2


def test_a_signal_in_a_save_comes_before_its_event(lab_of):
    life = (
        lab_of(leaves("heard and before == 0"))
        .launch("ex03/train_preempt.py", faults=(send("term", 4, "event", 2),))
        .lives[0]
    )
    at = [e["event"] for e in life.events if e["event"] in ("saving", "signal", "saved")]
    assert at[:3] == ["saving", "signal", "saved"]


def test_a_group_signal_reaches_workers_and_kills_those_that_let_it(lab_of):
    deadly = (
        lab_of(leaves())
        .launch("ex03/train_preempt.py", "--workers", 2, faults=(send("term", 3, to="group"),))
        .lives[0]
    )
    assert "is killed by signal" in deadly.first("crash")["message"]
    ignoring = leaves().replace(
        "    pass\n",
        "    [signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGUSR1)]\n",
        1,
    )
    assert (
        lab_of(ignoring)
        .launch("ex03/train_preempt.py", "--workers", 2, faults=(send("term", 3, to="group"),))
        .lives[0]
        .preempted
    )


def test_a_job_that_no_signal_reaches_trains_as_the_yardstick_does(lab_of):
    lab = lab_of(HEARS.format(after="pass"))
    assert (
        lab.launch("ex03/train_preempt.py").trajectory
        == lab.trusted("ex03/train_preempt.py").trajectory
    )


def test_the_end_of_the_time_limit_is_told_and_kept(lab_of):
    code = HEARS.format(after="print(int(os.environ['SLURM_JOB_END_TIME']) - clock(), flush=True)")
    life = lab_of(code).launch("ex03/train_preempt.py", "--end", 5).last
    assert life.text().split() == ["2.0", "1.0"] and life.first("killed")["clock"] == 5


def test_the_timeline_tells_the_moments_in_order(lab_of):
    life = lab_of(leaves()).launch("ex03/train_preempt.py", faults=(send("term", 5),)).lives[0]
    rows = stop_log(life)
    assert [at for at, _ in rows] == sorted(at for at, _ in rows)
    assert (
        rows[-1] == (9.0, f"exits with status {PREEMPTED}, after step 5")
        and (8.0, "step 5 is done") in rows
    )


@pytest.mark.needs_solution
def test_the_script_runs_by_hand(tmp_path):
    ex03 = catalog.find("ex03")
    command = [
        sys.executable,
        str(WORKLOAD / "ex03/train_preempt.py"),
        "--checkpoint",
        str(ex03.solution / ex03.module),
        "--directory",
        str(tmp_path / "ck"),
    ]
    stopped = subprocess.run(
        [*command, "--events", str(tmp_path / "rank"), "--fault", "term@8"],
        cwd=tmp_path,
        timeout=100,
    )
    assert stopped.returncode == PREEMPTED
    assert json.loads((tmp_path / "ck" / "status.json").read_text())["outcome"] == "preempted"
    assert subprocess.run(command, cwd=tmp_path, timeout=100).returncode == 0
