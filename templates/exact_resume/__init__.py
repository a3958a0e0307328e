"""Checkpoints that survive production: a training job is saved, stopped and resumed exactly.

    sampler = ResumableSampler(len(data), batch_size=32, seed=1)
    loader = DataLoader(data, batch_sampler=sampler, worker_init_fn=ignore_signals)
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "sampler": sampler}
    with CheckpointManager("checkpoints", state, every_steps=1000, keep=3) as ckpt:
        ckpt.resume()                # the newest intact checkpoint, or a fresh start
        while ckpt.epoch < epochs and not ckpt.should_stop():
            for batch in sampler.follow(loader):
                ...                  # forward, backward, optimizer.step(), scheduler.step()
                if ckpt.step():      # saves when due; true: stop, a signal came
                    break
            else:
                ckpt.end_epoch(validate(model))
    sys.exit(ckpt.exit_status)       # 0 done, 75 preempted: run me again; an error gives 1

What it promises, on one process, under DDP and under FSDP2:
- A checkpoint appears whole or not at all: files, fsync, one rename, fsync of the directory.
  A digest covers every byte and is checked on loading. A checkpoint holds no code (JSON and raw
  tensors, no pickle).
- Resuming takes the newest intact checkpoint and says which ones it skipped. If checkpoints exist
  but none is intact, it raises; it never silently starts from step 0.
- With several ranks, a checkpoint exists only when every rank's part is durable. An error on one
  rank is an error on all of them, and all stop at the same step.
- An asynchronous save stalls training only while the state is copied. The next call raises its
  failure.
"""

from .config import Config
from .digest import digest_of
from .directory import CheckpointDirectory
from .generators import rng_state, set_rng_state
from .interfaces import (
    DONE,
    EXIT_STATUS,
    FAILED,
    PREEMPTED,
    CheckpointError,
    DiskFull,
    Mismatch,
    Stateful,
)
from .manager import CheckpointManager
from .modules import bare
from .sampler import ResumableSampler
from .signals import StopSignal, ignore_signals
from .statefile import read_file, write_file

__all__ = [
    "DONE",
    "EXIT_STATUS",
    "FAILED",
    "PREEMPTED",
    "CheckpointDirectory",
    "CheckpointError",
    "CheckpointManager",
    "Config",
    "DiskFull",
    "Mismatch",
    "ResumableSampler",
    "Stateful",
    "StopSignal",
    "bare",
    "digest_of",
    "ignore_signals",
    "read_file",
    "rng_state",
    "set_rng_state",
    "write_file",
]
