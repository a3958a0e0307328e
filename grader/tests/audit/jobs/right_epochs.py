"""Right: saves only at the end of an epoch, with mixed precision."""

import argparse
import os

import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

p = argparse.ArgumentParser()
p.add_argument("--out_dir", required=True)
out = p.parse_args().out_dir
names = [os.path.join(out, name) for name in ("a.pt", "b.pt")]  # in turn
torch.manual_seed(7)
data = torch.randn(32, 4)
model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=5)
parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
epoch, best = 0, float("inf")
found = []
for name in names:
    if os.path.exists(name):
        try:
            found.append(torch.load(name))
        except Exception as e:
            print(f"{name} is damaged: {e}")
if found:
    state = max(found, key=lambda s: s["epoch"])
    epoch, best = state["epoch"], state["best"]
    for name, part in parts.items():
        part.load_state_dict(state[name])
while epoch < 4:
    torch.manual_seed(epoch)
    total = 0.0
    for x in DataLoader(data, batch_size=8, sampler=RandomSampler(data)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.mse_loss(model(x), x)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        total += loss.item()
    scheduler.step()
    epoch, best = epoch + 1, min(best, total)
    state = {name: part.state_dict() for name, part in parts.items()}
    new = os.path.join(out, "new")
    torch.save(state | {"epoch": epoch, "best": best}, new)
    os.replace(new, names[epoch % 2])
