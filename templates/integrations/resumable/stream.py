#!/usr/bin/env python3
"""A forecast of time series that workers stream from shards, through a shuffle buffer: no epochs,
no length.
"""

import argparse
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from checkpoint_utils import CheckpointManager, ignore_signals
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

p = argparse.ArgumentParser(description=__doc__)
p.add_argument("--output-dir", type=Path, required=True)
p.add_argument("--steps", type=int, default=2000)
p.add_argument("--batch-size", type=int, default=16)
p.add_argument("--shards", type=int, default=8)
p.add_argument("--workers", type=int, default=2)
args = p.parse_args()


class Series(IterableDataset):
    """Windows of one series for each shard; shards and windows come in random order, for ever."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        draw, buffer = random.Random(worker), []
        while True:
            mine = list(range(worker, args.shards, workers))
            draw.shuffle(mine)
            for shard in mine:
                series = torch.arange(128).mul(0.1 * (shard + 1)).sin()
                for window in series.unfold(0, 17, 4):
                    buffer.append(window)
                    if len(buffer) > 32:
                        yield buffer.pop(draw.randrange(len(buffer)))


torch.manual_seed(3)
device = "cuda" if torch.cuda.is_available() else "cpu"
safe = {"worker_init_fn": ignore_signals, "generator": torch.Generator()}
loader = DataLoader(Series(), args.batch_size, num_workers=args.workers, **safe)
model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 1)).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
args.output_dir.mkdir(parents=True, exist_ok=True)

state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
with CheckpointManager(args.output_dir / "ckpt", state, every_steps=20) as ckpt:
    ckpt.resume()
    rest = itertools.islice(loader, ckpt.steps, None)
    for step, batch in zip(range(ckpt.steps, args.steps), rest, strict=False):
        x, y = batch.to(device).split([16, 1], dim=1)
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        print(f"step {step}: loss {loss.item():.6f}")
        if ckpt.step():
            break
if ckpt.exit_status:
    raise SystemExit(ckpt.exit_status)
torch.save(model.state_dict(), args.output_dir / "final.pt")
