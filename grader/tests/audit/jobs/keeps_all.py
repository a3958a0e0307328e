"""No checkpoint is ever deleted."""

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
if names := sorted(glob.glob(os.path.join(out, "step-*.pt"))):
    state = torch.load(names[-1])
    step = state["step"]
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
while step < 18:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    step += 1
    if step % 4 == 0:
        state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        name = os.path.join(out, f"step-{step:04d}.pt")
        torch.save(state, name + ".tmp")
        os.replace(name + ".tmp", name)
