"""The training job that the exercises make survive: what it holds, and one step of it."""

from __future__ import annotations

import math
import random
import sys
from dataclasses import dataclass, field

import numpy
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from grader.workload.data import VOCABULARY, Windows
from grader.workload.model import Transformer

BATCH = 8


@dataclass
class Job:
    """A training job in memory. Which parts of it must a checkpoint hold?"""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None  # stepped after every optimizer step
    loader: DataLoader  # shuffles, has no generator of its own; 0 or 2 workers
    epochs: int  # how many the run will have
    epoch: int = 0  # the one in progress, from 0
    step: int = 0  # finished optimizer steps, over the whole run
    batch: int = 0  # finished steps of this epoch
    best: float = math.inf  # the lowest validation loss so far
    memo: dict = field(default_factory=dict)  # yours: the training script never touches it
    val_set: Windows | None = None

    # no other rank's buffers replace them before the next forward pass
    owns_buffers = True

    def train_step(self, batch) -> float:
        """Forward, backward, optimizer, scheduler, counters; the loss of the batch."""
        _, inputs, targets = batch
        logits = self.model(inputs)
        loss = F.cross_entropy(logits.reshape(-1, VOCABULARY), targets.reshape(-1))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.scheduler:
            self.scheduler.step()
        self.step += 1
        self.batch += 1
        return loss.item()

    @torch.no_grad()
    def validate(self) -> float:
        """Mean loss over the validation set; draws from no random generator."""
        self.model.eval()
        _, inputs, targets = zip(*(self.val_set[i] for i in range(len(self.val_set))), strict=False)
        logits = self.model(torch.stack(inputs))
        self.model.train()
        return F.cross_entropy(
            logits.reshape(-1, VOCABULARY), torch.stack(targets).reshape(-1)
        ).item()


def seed_everything(seed: int) -> None:
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def build(
    seed: int,
    epochs: int,
    steps_per_epoch: int,
    workers: int = 0,
    randomness: bool = True,
    spawn: bool = False,
) -> Job:
    """A fresh job; without `randomness`: no dropout, no augmentation, and no shuffling."""
    seed_everything(seed)
    model = Transformer(dropout=0.1 if randomness else 0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    # warm-up, then decay, per step; it drives the learning rate and the optimizer's beta1
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-2, total_steps=epochs * steps_per_epoch + 1, pct_start=0.3
    )
    train_set = Windows(steps_per_epoch * BATCH, seed, augment=randomness)
    loader = DataLoader(
        train_set,
        batch_size=BATCH,
        shuffle=randomness,
        num_workers=workers,
        # even without shuffling, iter(loader) draws from the global generator unless it has its own
        generator=None if randomness else torch.Generator(),
        # forked workers start in milliseconds; macOS has no safe fork, so it spawns them
        multiprocessing_context=("spawn" if spawn or sys.platform == "darwin" else "fork")
        if workers
        else None,
    )
    val_set = Windows(32, seed + 1, augment=False)
    return Job(model, optimizer, scheduler, loader, epochs, val_set=val_set)


def estrange(job: Job, generators: bool = True) -> None:
    """Make a fresh job unlike any other: other weights and (if `generators`) other random numbers.

    Otherwise a relaunched process, which builds its job from the old seed, looks half restored
    although nothing was restored.
    """
    if generators:
        seed_everything(torch.initial_seed() + 1)
    draw = torch.Generator().manual_seed(torch.initial_seed())
    for tensor in job.model.state_dict().values():
        shard = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        shard.normal_(generator=draw)


def estrange_wholly(job: Job) -> None:
    """The same for a job whose best metric is restored, too: no loss is lower than this one."""
    estrange(job)
    job.best = float("-inf")
