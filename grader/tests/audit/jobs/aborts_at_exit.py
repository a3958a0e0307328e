"""Aborts while Python shuts down, in the runs that --bad names; the file --runs counts them."""

import argparse
import os

import torch
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--out_dir", required=True)
p.add_argument("--runs", required=True)
p.add_argument("--bad", required=True, help="the numbers of the runs that abort, such as 12")
args = p.parse_args()

with open(args.runs, "a+") as f:
    f.write("x")
    f.flush()
    f.seek(0)
    number = len(f.read())


class Abort:
    def __del__(self):
        os.abort()


if str(number) in args.bad:
    kept = Abort()  # freed after all exit handlers, as torch's process groups are
torch.manual_seed(1)
model = nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(4):
    x = torch.randn(4, 8)
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)).backward()
    optimizer.step()
    torch.save(model.state_dict(), os.path.join(args.out_dir, "last.pt"))
