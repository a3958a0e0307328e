"""The training job of exercise 2: one rank's part of it, under DDP or sharded with FSDP2."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from grader.workload.data import CONTEXT, Windows
from grader.workload.job import Job, seed_everything
from grader.workload.model import Transformer

BATCH = 4  # samples for each rank


@dataclass
class RankJob(Job):
    """A rank's part of a training job in memory (see Job), and its place among the ranks.

    job.model is wrapped: by DistributedDataParallel, so that the network is job.model.module, or by
    fully_shard. job.loader takes its order from job.sampler, which takes it from the epoch that you
    set.
    """

    sampler: DistributedSampler | None = None
    rank: int = 0
    world: int = 1  # the number of ranks

    @property
    def owns_buffers(self) -> bool:
        return self.rank == 0  # DDP gives every rank rank 0's before each forward pass

    def validate(self) -> float:
        """Rank 0's mean loss over the validation set, on every rank; draws from no generator."""
        loss = torch.zeros((), dtype=torch.float64)
        if self.rank == 0:
            loss.fill_(Job(self.model.module, None, None, None, 0, val_set=self.val_set).validate())
        dist.broadcast(loss, 0)
        return loss.item()


def build_ddp(
    seed: int, epochs: int, steps_per_epoch: int, randomness: bool = True, prime: bool = True
) -> RankJob:
    """A fresh job under DistributedDataParallel, on every rank.

    randomness  without it: no dropout, no augmentation, no shuffling, no scheduler
    prime       a job that isn't trained needs no priming and no check of equal weights
    """
    seed_everything(seed)
    network = Transformer(dropout=0.1 if randomness else 0.0)
    model = torch.nn.parallel.DistributedDataParallel(network, init_sync=prime)
    if prime:
        prime_buckets(model)
    job = _job(model, seed, epochs, steps_per_epoch, randomness)
    if not randomness:
        job.scheduler = None
    return job


def build_sharded(seed: int, epochs: int, steps_per_epoch: int) -> RankJob:
    """A fresh job sharded with FSDP2 over all ranks, with randomness but without buffers."""
    seed_everything(seed)
    model = Transformer(dropout=0.1, running_mean=False)
    shard(model.block, model)
    return _job(model, seed, epochs, steps_per_epoch, True)


def shard(*modules: torch.nn.Module) -> None:
    """fully_shard over all ranks; give the innermost modules first."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in modules:
        fully_shard(module, mesh=mesh)


def announce(newest: Path, folder: str) -> None:
    """Rank 0 writes into `newest`, for the next life, that all ranks have saved into `folder`.

    The barriers around it are in the scripts, so that reports show the script's line for a rank
    that hangs.
    """
    if dist.get_rank() == 0:
        temporary = newest.with_suffix(".tmp")
        temporary.write_text(folder)
        os.replace(temporary, newest)


def _job(model, seed: int, epochs: int, steps_per_epoch: int, randomness: bool) -> RankJob:
    rank, world = dist.get_rank(), dist.get_world_size()
    # foreach: for each operator, DTensor works out how shards take part, slower than the step
    # itself
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05, foreach=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-2, total_steps=epochs * steps_per_epoch + 1, pct_start=0.3
    )
    data = Windows(steps_per_epoch * BATCH * world, seed, augment=randomness)
    sampler = DistributedSampler(data, num_replicas=world, rank=rank, shuffle=randomness, seed=seed)
    loader = DataLoader(
        data, batch_size=BATCH, sampler=sampler, generator=None if randomness else torch.Generator()
    )
    # each rank's dropout and augmentation must differ: else DDP averages N equal gradients
    seed_everything(seed * 1000 + rank + 1)
    val_set = Windows(32, seed + 1, augment=False)
    return RankJob(
        model,
        optimizer,
        scheduler,
        loader,
        epochs,
        val_set=val_set,
        sampler=sampler,
        rank=rank,
        world=world,
    )


def prime_buckets(model) -> None:
    """Two backward passes before anything is trained or restored.

    DDP reorders its gradient buckets after a process's first step. With three ranks or more, that
    changes the order of summation, and a resumed run would differ from an undisturbed one in the
    last bits.
    """
    buffers = {name: b.clone() for name, b in model.module.named_buffers()}
    for _ in range(2):
        model(torch.zeros(1, CONTEXT, dtype=torch.long)).sum().backward()
    model.zero_grad()
    for name, b in model.module.named_buffers():
        b.copy_(buffers[name])
