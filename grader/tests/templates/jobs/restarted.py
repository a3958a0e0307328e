"""A job of torchrun of which rank 1 dies once, after step 3: restarted.py DIRECTORY."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "templates"))
import checkpoint_utils as cu

dist.init_process_group("gloo")
model = torch.nn.Linear(2, 2)
with cu.CheckpointManager(sys.argv[1], {"model": model}, every_steps=2, timeout=60) as ckpt:
    ckpt.resume()
    began = ckpt.steps
    while ckpt.steps < 6 and not ckpt.should_stop():
        ckpt.step()
        if began == 0 and ckpt.steps == 3 and dist.get_rank() == 1:
            os._exit(3)
print("began at", began)
dist.barrier()
dist.destroy_process_group()
