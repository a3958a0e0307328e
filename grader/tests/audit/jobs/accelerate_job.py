"""Right: Accelerate prepares the model and the optimizer, and saves and loads its state."""

import argparse
import os

import torch
from accelerate import Accelerator
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--out_dir", required=True)
out = p.parse_args().out_dir
torch.manual_seed(1)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = nn.Linear(4, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
model, optimizer = accelerator.prepare(model, optimizer)
step = 0
for name in sorted(os.listdir(out)):
    if name.startswith("step-"):
        accelerator.load_state(os.path.join(out, name))
        step = int(name[5:])
while step < 10:
    for _ in range(2):
        with accelerator.accumulate(model):
            x = torch.randn(8, 4)
            accelerator.backward(nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)))
            optimizer.step()
            optimizer.zero_grad()
    step += 1
    if step % 4 == 0:
        accelerator.save_state(os.path.join(out, "new"))
        os.rename(os.path.join(out, "new"), os.path.join(out, f"step-{step:03}"))
