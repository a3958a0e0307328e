"""Right: functions on one state, no DataLoader; what is random follows from the step.

The optimizer's step is given a closure, which does the forward and the backward pass.
"""

import argparse
import glob
import os

import torch
from torch import nn


def begin():
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2))
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)}


def load(folder, state):
    for name in sorted(glob.glob(f"{folder}/at-*.pt"), reverse=True):
        try:
            saved = torch.load(name)
        except Exception as e:
            print(f"{name}: {e}")
            continue
        state["model"].load_state_dict(saved["model"])
        state["optimizer"].load_state_dict(saved["optimizer"])
        return saved["done"]
    return 0


def train_step(state, step):
    torch.manual_seed(1000 + step)
    x = torch.randn(16, 4)
    state["optimizer"].param_groups[0]["lr"] = 0.1 * 0.9**step

    def compute():
        loss = nn.functional.cross_entropy(state["model"](x), (x.sum(1) > 0).long())
        state["optimizer"].zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(state["model"].parameters(), 1.0)
        return loss

    state["optimizer"].step(compute)


def save(folder, state, done):
    saved = {name: part.state_dict() for name, part in state.items()} | {"done": done}
    with open(f"{folder}/unfinished", "wb") as f:
        torch.save(saved, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(f"{folder}/unfinished", f"{folder}/at-{done:03d}.pt")
    for old in sorted(glob.glob(f"{folder}/at-*.pt"))[:-2]:
        os.remove(old)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out_dir", required=True)
    folder = p.parse_args().out_dir
    state = begin()
    for step in range(load(folder, state), 14):
        train_step(state, step)
        if step % 4 == 3:
            save(folder, state, step + 1)


main()
