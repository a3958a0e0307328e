"""The average of the weights isn't saved, only exported at the end.

With --replace, a resume also trains another model than the one that the optimizer knows.
"""

import argparse
import copy
import os

import torch
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--out_dir", required=True)
p.add_argument("--replace", action="store_true")
args = p.parse_args()
path = os.path.join(args.out_dir, "last.pt")
torch.manual_seed(1)
model = nn.Linear(4, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
step = 0
if os.path.exists(path):
    state = torch.load(path)
    if args.replace:
        model = nn.Linear(4, 1)
    step = state["step"]
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
average = copy.deepcopy(model).requires_grad_(False)
while step < 10:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for a, b in zip(average.parameters(), model.parameters(), strict=True):
        a.lerp_(b, 0.1)
    step += 1
    if step % 4 == 0:
        state = {"step": step, "model": model.state_dict()}
        torch.save(state | {"optimizer": optimizer.state_dict()}, path + ".tmp")
        os.replace(path + ".tmp", path)
torch.save(average.state_dict(), os.path.join(args.out_dir, "average.pt"))
