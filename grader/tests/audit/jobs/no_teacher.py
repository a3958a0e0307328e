"""The teacher, an average of the student, begins again as a copy of it."""

import argparse
import copy
import os

import torch
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--out_dir", required=True)
out = p.parse_args().out_dir
path = os.path.join(out, "last.pt")
torch.manual_seed(1)
model = nn.Linear(4, 2)
criterion = nn.MSELoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
step = 0
if os.path.exists(path):
    state = torch.load(path)
    step = state["step"]
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
teacher = copy.deepcopy(model)
while step < 14:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    with torch.no_grad():
        aim = teacher(x)
    optimizer.zero_grad()
    criterion(model(x + 0.1), aim).backward()
    optimizer.step()
    with torch.no_grad():
        for old, new in zip(teacher.parameters(), model.parameters(), strict=True):
            old.lerp_(new, 0.1)
    step += 1
    if step % 4 == 0:
        state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, path + ".tmp")
        os.replace(path + ".tmp", path)
