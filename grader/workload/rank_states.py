"""Jobs of exercise 2 to be saved, at any step, without training them."""

from __future__ import annotations

import torch

from grader.harness import watch
from grader.workload import rank_job
from grader.workload.job import seed_everything


def job_of(seed: int, step: int | None, rank: int) -> rank_job.RankJob:
    """This rank's job as it is after `step`, different in every value for another step (and its generators on every
    rank); None: a job that was just built, with nothing in it that was ever saved. All ranks build theirs together."""
    job = rank_job.build_ddp(seed, 9, 99, prime=False)
    number = -1 if step is None else step
    draw = torch.Generator().manual_seed(seed * 1000 + number + 1)
    with torch.no_grad():
        for tensor in job.model.state_dict().values():
            tensor.normal_(generator=draw)
    if step is not None:
        for group in job.optimizer.param_groups:
            for p in group["params"]:
                moments = {name: torch.rand(p.shape, generator=draw) for name in ("exp_avg", "exp_avg_sq")}
                job.optimizer.state[p] = {"step": torch.tensor(float(step)), **moments}
        job.scheduler.load_state_dict(job.scheduler.state_dict() | {"last_epoch": step, "_step_count": step + 1})
        job.step, job.epoch, job.batch, job.best = step, step // 99, step % 99, 1 / (step + 1)
    seed_everything(seed + 7919 * (number + 2) + rank)
    return job


def digests(job: rank_job.RankJob) -> dict[str, str]:
    return watch.state_digests(job, None)
