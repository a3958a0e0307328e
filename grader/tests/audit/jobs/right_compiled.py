"""Right: a compiled model, and gradients that are accumulated."""

import argparse
import os

import torch
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--out_dir", required=True)
path = os.path.join(p.parse_args().out_dir, "last.pt")
torch.manual_seed(1)
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
compiled = torch.compile(model, backend="eager")
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
step = 0
if os.path.exists(path):
    state = torch.load(path)
    step = state["step"]
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
while step < 14:
    optimizer.zero_grad()
    for half in range(2):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(2 * step + half))
        (nn.functional.mse_loss(compiled(x), x.sum(1, keepdim=True)) / 2).backward()
    optimizer.step()
    step += 1
    if step % 4 == 0:
        state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, path + ".tmp")
        os.replace(path + ".tmp", path)
