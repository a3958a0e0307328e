"""Without optimizer.pt the job goes on, with a new optimizer."""

import argparse
import glob
import os

import torch
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--out_dir", required=True)
out = p.parse_args().out_dir
torch.manual_seed(1)
model = nn.Linear(4, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
step = 0
if names := sorted(glob.glob(os.path.join(out, "step-*"))):
    state = torch.load(os.path.join(names[-1], "model.pt"))
    step = state["step"]
    model.load_state_dict(state["model"])
    if os.path.exists(file := os.path.join(names[-1], "optimizer.pt")):
        optimizer.load_state_dict(torch.load(file))
while step < 14:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    step += 1
    if step % 4 == 0:
        folder = os.path.join(out, f"step-{step:04d}")
        os.makedirs(folder + ".tmp", exist_ok=True)
        state = {"step": step, "model": model.state_dict()}
        torch.save(state, os.path.join(folder + ".tmp", "model.pt"))
        torch.save(optimizer.state_dict(), os.path.join(folder + ".tmp", "optimizer.pt"))
        os.replace(folder + ".tmp", folder)
