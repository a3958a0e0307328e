"""A small DDP job: each rank saves its own generator. With --bad, rank 1 doesn't restore it."""

import argparse
import gc
import os

import torch
import torch.distributed as dist
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("--out_dir", required=True)
p.add_argument("--bad", action="store_true")
args = p.parse_args()

dist.init_process_group("gloo")
rank = dist.get_rank()
path = os.path.join(args.out_dir, "last.pt")
torch.manual_seed(1)
model = nn.parallel.DistributedDataParallel(nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
torch.manual_seed(100 + rank)
step = 0
if os.path.exists(path):
    state = torch.load(path)
    step = state["step"]
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if not (args.bad and rank == 1) and rank < len(state["rng"]):
        torch.set_rng_state(state["rng"][rank])
while step < 10:
    x = torch.randn(4, 8)
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)).backward()
    optimizer.step()
    step += 1
    if step % 4 == 0:
        rng = [None] * dist.get_world_size()
        dist.all_gather_object(rng, torch.get_rng_state())
        if rank == 0:
            state = {"step": step, "model": model.state_dict(), "rng": rng}
            torch.save(state | {"optimizer": optimizer.state_dict()}, path + ".tmp")
            os.replace(path + ".tmp", path)
        dist.barrier()
# at exit, torch 2.13 may abort a process whose group still has threads: they end with the group,
# which the model keeps
del model, optimizer
gc.collect()
dist.barrier()
dist.destroy_process_group()
