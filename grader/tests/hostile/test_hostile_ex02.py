"""Submissions to exercise 2 that report what they haven't done: no points."""

from __future__ import annotations

import pytest

from grader import engine
from grader.course import catalog, submissions
from grader.verdicts import PASS

pytestmark = pytest.mark.needs_solution

# functions that save nothing, and come back at once
NOTHING = """
import os, sys
import torch.distributed as dist

def save_checkpoint_ddp(model, optimizer, epoch, rank, path):
    if rank == 0:
        open(path, "w").close()
    dist.barrier()

def load_checkpoint_ddp(model, optimizer, path):
    return 1

def save_job(job, folder):
    open(os.path.join(folder, str(job.rank)), "w").close()
    dist.barrier()

def load_job(job, folder):
    job.step = int(folder.rpartition("-")[2])

def batches(job):
    job.sampler.set_epoch(job.epoch)
    yield from job.loader

def save_sharded(model, optimizer, folder):
    os.makedirs(folder, exist_ok=True)
    open(os.path.join(folder, str(dist.get_rank())), "w").close()
    dist.barrier()

def load_sharded(model, optimizer, folder):
    pass

def export_model(folder, model, path):
    import torch
    torch.save(model.state_dict(), path)

def save_step(job, directory):
    open(os.path.join(directory, f"{job.step}-{job.rank}"), "w").close()
    dist.barrier()

def resume(job, directory):
    steps = [int(name.split("-")[0]) for name in os.listdir(directory) if name[0].isdigit()]
    job.step = max(steps, default=0)
    return bool(steps)
"""

FORGED = {
    "nothing is saved": "",
    "every digest is a constant": """
from grader.harness.inside import digest, telemetry
from grader.workload.ex02 import sample_jobs
digest.digest = lambda *a, **k: "0123456789abcdef"
telemetry.state_digests = lambda *a: {"weights": "0"}
sample_jobs.digests = lambda *a: {"weights": "0"}
main = vars(sys.modules["__main__"])
for name in ("digest", "digests", "whole"):
    if name in main:
        main[name] = lambda *a, **k: {"weights": "0"}
""",
    "answers are reported by the student": """
from grader.harness.inside import telemetry
real = telemetry.emit
def emit(event, **fields):
    if event in ("loaded point", "whole", "exported", "answer"):
        fields |= {"holds": {"weights": "0"}, "digests": {"weights": "0"}}
        fields |= {"raised": None, "returned": "True"}
    if event == "held":
        fields["shown"] = "waits"
    real(event, **fields)
telemetry.emit = emit
""",
    "jobs are drawn again from what the life was given": """
from grader.harness.inside import telemetry
from grader.workload.ex02 import sample_jobs
def resume(job, directory):
    seeds = [telemetry.given("payload"), telemetry.given("key"), None]
    steps = [int(name.split("-")[0]) for name in os.listdir(directory) if name[0].isdigit()]
    if not steps:
        return False
    sample_jobs.fill(job, job.model.module, seeds[0], max(steps), 0, job.rank)
    return True
def load_job(job, folder):
    step = int(folder.rpartition("-")[2])
    sample_jobs.fill(job, job.model.module, telemetry.given("payload", 1), step, 0, job.rank)
""",
}


@pytest.mark.parametrize("name", FORGED)
def test_what_is_reported_and_not_done_scores_nothing(launcher, name):
    exercise = catalog.find("ex02")
    files = {exercise.module: (NOTHING + FORGED[name]).encode()}
    work = submissions.Submission(exercise.starter, exercise.module, files)
    work.key = f"hostile ex02 {name}"
    result = engine.grade(exercise, work, launcher, seed=1)
    assert result.score == 0, [(t.id, t.verdict) for t in result.tasks]
    assert PASS not in [t.verdict for t in result.tasks]


def test_a_process_that_leaves_is_no_error_that_ranks_hear_of(launcher):
    exercise = catalog.find("ex02")
    solution = (exercise.solution / exercise.module).read_text()
    leaves = solution.replace(
        "class CheckpointError(Exception)", "class CheckpointError(SystemExit)"
    )
    work = submissions.Submission(
        exercise.solution, exercise.module, {exercise.module: leaves.encode()}
    )
    work.key = "hostile ex02 leaves"
    result = engine.grade(exercise, work, launcher, seed=1, tasks=[2])
    assert result.score == 0
