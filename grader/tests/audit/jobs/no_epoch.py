"""The first epoch's order comes again, as the number of the epoch isn't loaded."""

import argparse
import os

import torch
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--out_dir", required=True)
out = p.parse_args().out_dir
path = os.path.join(out, "last.pt")
torch.manual_seed(1)
data = torch.randn(48, 4)
model = nn.Linear(4, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
step = epoch = position = 0
if os.path.exists(path):
    state = torch.load(path)
    step, position = state["step"], state["position"]
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
while epoch < 3:
    order = torch.randperm(48, generator=torch.Generator().manual_seed(epoch)).tolist()
    for at in range(position, 48, 8):
        x = data[order[at : at + 8]]
        loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 4 == 0:
            state = {"epoch": epoch, "position": at + 8, "step": step}
            state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, path + ".tmp")
            os.replace(path + ".tmp", path)
    epoch, position = epoch + 1, 0
