"""A training job as many people write it: plain PyTorch, nothing of this project.

    python job.py --out_dir DIR [--mistake NAME]

Without a mistake it survives every fault of an audit, bit for bit.
"""

import argparse
import glob
import os
import random
import signal
import sys

import numpy
import torch
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--out_dir", required=True)
p.add_argument("--mistake", default="")
p.add_argument("--steps", type=int, default=24)
p.add_argument("--save-every", type=int, default=6)
p.add_argument("--accumulate", type=int, default=2)
args = p.parse_args()
wrong = args.mistake

stopping = []
if wrong == "ignores-sigterm":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda n, frame: stopping.append(n))

if wrong != "unseeded":
    random.seed(1)
    numpy.random.seed(1)
    torch.manual_seed(1)

data = torch.randn(64, 8, generator=torch.Generator().manual_seed(2))
model = nn.Sequential(
    nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 8)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5, gamma=0.8)
order: list[int] = []
step = 0


def save() -> None:
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "order": list(order),
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
    }
    os.makedirs(args.out_dir, exist_ok=True)
    if wrong in ("in-place", "starts-over"):
        torch.save(state, os.path.join(args.out_dir, "last.pt"))
        return
    name = os.path.join(args.out_dir, f"step-{step:06d}.pt")
    with open(name + ".tmp", "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(name + ".tmp", name)
    for old in sorted(glob.glob(os.path.join(args.out_dir, "step-*.pt")))[:-2]:
        os.remove(old)


def read():
    names = sorted(glob.glob(os.path.join(args.out_dir, "*.pt")), reverse=True)
    for name in names:
        try:
            return torch.load(name, weights_only=False)
        except Exception as e:
            if wrong == "in-place":
                raise
            print(f"{name} can't be read: {e}", flush=True)
    if names and wrong != "starts-over":
        sys.exit("no checkpoint can be read")
    return None


state = read()
if state is not None:
    step, order = state["step"], state["order"]
    model.load_state_dict(state["model"])
    if wrong != "no-optimizer":
        optimizer.load_state_dict(state["optimizer"])
    if wrong != "no-scheduler":
        scheduler.load_state_dict(state["scheduler"])
    if wrong != "no-rng":
        torch.set_rng_state(state["torch"])
        random.setstate(state["python"])
        numpy.random.set_state(state["numpy"])
    if wrong == "no-order":
        order = []

while step < args.steps and not stopping:
    optimizer.zero_grad()
    for _ in range(args.accumulate):
        if len(order) < 8:
            order = torch.randperm(64).tolist()
        batch, order = data[order[:8]], order[8:]
        noisy = batch + 0.1 * torch.from_numpy(numpy.random.randn(8, 8)).float()
        loss = nn.functional.mse_loss(model(noisy), batch)
        (loss / args.accumulate).backward()
    optimizer.step()
    scheduler.step()
    step += 1
    if step % args.save_every == 0 or stopping:
        save()

print("stopped" if step < args.steps else "done", "after step", step)
sys.exit(0 if step == args.steps else 75)
