"""The average of the weights has a file of its own, in safetensors' format, that isn't loaded."""

import argparse
import os

import torch
from safetensors.torch import load_file, save_file
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--out_dir", required=True)
out = p.parse_args().out_dir
torch.manual_seed(1)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
step = 0
names = sorted(name for name in os.listdir(out) if name.startswith("step-"))
if names:
    step = int(names[-1][5:])
    model.load_state_dict(load_file(os.path.join(out, names[-1], "model.safetensors")))
ema = {k: v.clone() for k, v in model.state_dict().items()}
while step < 14:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for k, v in model.state_dict().items():
        ema[k].lerp_(v, 0.1)
    step += 1
    if step % 4 == 0:
        new = os.path.join(out, f"new-{step}")
        os.makedirs(new, exist_ok=True)
        save_file(model.state_dict(), os.path.join(new, "model.safetensors"))
        save_file(ema, os.path.join(new, "ema.safetensors"))
        os.rename(new, os.path.join(out, f"step-{step:03}"))
