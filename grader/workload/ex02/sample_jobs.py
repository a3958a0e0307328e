"""Jobs of exercise 2 to save at any step without training them, and digests of their parts."""

from __future__ import annotations

import math
import random

import numpy
import torch

from grader.harness.inside.digest import digest
from grader.workload import rank_job
from grader.workload.job import seed_everything

PER_EPOCH = 99  # steps
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def job_of(seed: int, payload: int | None, step: int = 0, version: int = 0) -> rank_job.RankJob:
    """This rank's job as it is after `step`. All ranks build theirs together.

    payload  the seed of its values; None: a job that was just built
    version  another version of the same step has other values, as if trained again
    """
    job = rank_job.build_ddp(seed, 1, 1, prime=False)
    vary(job.optimizer)
    fill(job, job.model.module, payload, step, version, job.rank)
    return job


def vary(optimizer) -> None:
    """Two groups, and one moment more than AdamW has otherwise: what a save may forget that knows
    one kind of optimizer.
    """
    first = optimizer.param_groups[0]
    first["amsgrad"] = True
    every = first["params"]
    first["params"] = every[::2]
    optimizer.add_param_group(first | {"params": every[1::2]})


def fill(job, network, payload: int | None, step: int, version: int, rank: int) -> None:
    """Give the job the values of `payload`, and this rank's generators."""
    number = random.Random(f"{payload} {step} {version}").getrandbits(40)
    draw = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.normal_(generator=draw)
    if payload is not None:
        for group in job.optimizer.param_groups:
            for p in group["params"]:
                moments = {name: torch.rand(p.shape, generator=draw) for name in MOMENTS}
                job.optimizer.state[p] = {"step": torch.tensor(float(step)), **moments}
        numbers = random.Random(number)
        for group in job.optimizer.param_groups:
            for setting in ("lr", "eps", "weight_decay"):
                group[setting] = numbers.random()
        rates = [group["lr"] for group in job.optimizer.param_groups]
        scheduled = {"last_epoch": step, "_step_count": step + 1, "_last_lr": rates}
        job.scheduler.load_state_dict(job.scheduler.state_dict() | scheduled)
        job.step, job.epoch, job.batch = step, step // PER_EPOCH, step % PER_EPOCH
        job.best = draw_best(number) if step else math.inf
    seed_everything(number % 2**32 + rank)
    # the generator keeps one of a pair of normal numbers for the next draw: state, too
    random.gauss(0, 1)
    numpy.random.standard_normal()


def draw_best(number: int) -> float:
    return random.Random(number).random()


def digests(job, network, key: str) -> dict[str, str]:
    """One digest for each part of the job on this rank."""
    kinds: dict[str, list] = {}
    optimizer = job.optimizer.state_dict()
    for index, tensors in sorted(optimizer["state"].items()):
        for kind, tensor in sorted(tensors.items()):
            kinds.setdefault(f"optimizer {kind}", []).append([index, tensor])
    settings = [
        {k: v for k, v in group.items() if k != "params"} for group in optimizer["param_groups"]
    ]
    name, keys, position, *rest = numpy.random.get_state()
    parts = {
        "weights": dict(network.named_parameters()),
        "buffers": dict(network.named_buffers()) if job.owns_buffers else {},
        **kinds,
        "optimizer settings": settings,
        "scheduler": job.scheduler.state_dict() if job.scheduler else None,
        "global step": job.step,
        "epoch": job.epoch,
        "position in the epoch": job.batch,
        "best metric": float(job.best),
        "Python RNG": repr(random.getstate()),
        "NumPy RNG": [name, keys, int(position), *rest],
        "torch RNG": torch.get_rng_state(),
    }
    return {part: digest(value, key) for part, value in parts.items()}
