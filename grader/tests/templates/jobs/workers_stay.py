"""A job that keeps an iterator, and so its workers, until Python ends."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "templates"))
import checkpoint_utils as cu

model = torch.nn.Linear(1, 1)
loader = torch.utils.data.DataLoader(
    torch.arange(64.0),
    num_workers=2,
    worker_init_fn=cu.ignore_signals,
    persistent_workers=True,
    multiprocessing_context="fork",
)
with cu.CheckpointManager(sys.argv[1], {"model": model}) as ckpt:
    kept = iter(loader)
    next(kept)
    ckpt.step()
sys.exit(ckpt.exit_status)
