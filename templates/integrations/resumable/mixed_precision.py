#!/usr/bin/env python3
"""A regression in mixed precision: gradients of several batches are accumulated, and scaled."""

import argparse
from pathlib import Path

import torch
from checkpoint_utils import CheckpointManager, ResumableSampler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

p = argparse.ArgumentParser(description=__doc__)
p.add_argument("--output-dir", type=Path, required=True)
p.add_argument("--epochs", type=int, default=10)
p.add_argument("--samples", type=int, default=1024)
p.add_argument("--batch-size", type=int, default=16)
p.add_argument("--accumulate", type=int, default=4, help="batches for each step")
p.add_argument("--width", type=int, default=64)
args = p.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(7)
inputs = torch.randn(args.samples, 8)
data = TensorDataset(inputs, inputs.sin().sum(1, keepdim=True))
sampler = ResumableSampler(len(data), args.batch_size, seed=7)
loader = DataLoader(data, batch_sampler=sampler)
model = nn.Sequential(
    nn.Linear(8, args.width), nn.GELU(), nn.Dropout(0.05), nn.Linear(args.width, 1)
).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
steps = args.epochs * -(-len(loader) // args.accumulate)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
scaler = torch.amp.GradScaler(device, growth_interval=5)
criterion = nn.MSELoss()

state = dict(model=model, optimizer=optimizer, scheduler=scheduler, scaler=scaler, sampler=sampler)
with CheckpointManager(args.output_dir / "ckpt", state, every_steps=20) as ckpt:
    ckpt.resume()
    while ckpt.epoch < args.epochs and not ckpt.should_stop():
        for i, (x, y) in enumerate(sampler.follow(loader), sampler.batch):
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = criterion(model(x.to(device)), y.to(device)) / args.accumulate
            scaler.scale(loss).backward()
            print(f"epoch {ckpt.epoch} batch {i}: loss {loss.item():.6f}")
            if (i + 1) % args.accumulate == 0 or i + 1 == len(loader):
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
                scheduler.step()
                optimizer.zero_grad()
                if ckpt.step():
                    break
        else:
            ckpt.end_epoch()

if ckpt.exit_status:
    raise SystemExit(ckpt.exit_status)
args.output_dir.mkdir(parents=True, exist_ok=True)
torch.save({"model": model.state_dict(), "scale": scaler.get_scale()}, args.output_dir / "final.pt")
