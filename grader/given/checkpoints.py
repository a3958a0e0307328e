"""How exercise 3's job saves, loads, and continues in the middle of an epoch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from grader.given import generators

Job = Any  # workload/ex03/preempt_job.py's, which imports this


def rest_of_epoch(job: Job) -> Iterator[Any]:
    """The batches left in this epoch, whose augmentation is what it would have been."""
    job.in_hand, now = False, generators.rng()
    if job.batch:
        generators.restore_rng(job.epoch_rng)
    job.epoch_rng = generators.rng()
    iterator = iter(job.loader)
    try:
        for _ in range(job.batch):
            next(iterator)
        if job.batch:
            generators.restore_rng(now)
        for batch in iterator:
            job.in_hand = True
            yield batch
    finally:
        del iterator  # ends the workers


def shared(job: Job) -> dict:
    """What all ranks have in common."""
    return {
        "model": job.network.state_dict(),
        "optimizer": job.optimizer.state_dict(),
        "scheduler": job.scheduler.state_dict(),
        "progress": [job.step, job.epoch, job.batch, job.best],
    }


def own(job: Job) -> dict:
    """Each rank's own state."""
    return {"rng": generators.rng(), "epoch_rng": job.epoch_rng}


def load(job: Job, of_all: Path, of_rank: Path) -> None:
    together = torch.load(of_all, map_location="cpu", weights_only=True)
    alone = torch.load(of_rank, map_location="cpu", weights_only=True)
    job.network.load_state_dict(together["model"])
    job.optimizer.load_state_dict(together["optimizer"])
    job.scheduler.load_state_dict(together["scheduler"])
    job.step, job.epoch, job.batch, job.best = together["progress"]
    job.epoch_rng = alone["epoch_rng"]
    generators.restore_rng(alone["rng"])


def write(state: dict, path: Path) -> None:
    temporary = f"{path}.tmp"
    with open(temporary, "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)
