#!/usr/bin/env python3
"""A training job that may be killed at any moment and still ends in the same weights.

    python train_with_checkpoint.py --directory runs/a
    torchrun --nproc-per-node 4 train_with_checkpoint.py --directory runs/a           # DDP
    torchrun --nproc-per-node 4 train_with_checkpoint.py --directory runs/a --fsdp    # FSDP2

Whatever happened, run the same command again. Exit status: 0 done, 75 preempted (run me again),
1 failed; torchrun hides it, but runs/a/status.json says it, too. Put checkpoint_utils.py beside
this file; change data and model.
"""

import argparse
import gc
import hashlib
import math
import os
import random
import sys

import torch
import torch.distributed as dist
from checkpoint_utils import CheckpointManager, ResumableSampler, bare, ignore_signals
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

p = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
p.add_argument(
    "--directory", default="checkpoints", help="where checkpoints go; all ranks must see it"
)
p.add_argument(
    "--resume",
    choices=["auto", "never"],
    default="auto",
    help="auto: from the newest intact checkpoint, if any; never: move existing ones aside",
)
p.add_argument(
    "--fsdp", action="store_true", help="shard model and optimizer over the ranks (FSDP2)"
)
p.add_argument("--epochs", type=int, default=4)
p.add_argument("--samples", type=int, default=2048, help="in one epoch")
p.add_argument("--batch-size", type=int, default=32, help="on each rank")
p.add_argument("--width", type=int, default=64)
p.add_argument("--layers", type=int, default=2)
p.add_argument("--workers", type=int, default=2, help="DataLoader workers of each rank")
p.add_argument("--seed", type=int, default=1)
p.add_argument("--save-every-steps", type=int, default=50)
p.add_argument("--save-every-minutes", type=float)
p.add_argument("--keep", type=int, default=3)
p.add_argument("--sync-saves", action="store_true", help="write checkpoints in the training thread")
p.add_argument("--trace", help="append every step's number and exact loss to this file")

CONTEXT, VOCABULARY = 32, 64


class Sequences(Dataset[torch.Tensor]):
    """Made-up text. Its randomness depends only on seed, epoch and index, not on the workers."""

    def __init__(self, samples: int, seed: int, noise: float):
        self.samples, self.seed, self.noise, self.epoch = samples, seed, noise, 0

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> torch.Tensor:
        draw = random.Random(f"{self.seed} {index}")
        a, b = draw.randrange(1, 8), draw.randrange(VOCABULARY)
        tokens = [(a * i * i + b) % VOCABULARY for i in range(CONTEXT + 1)]
        # augmentation: new in every epoch
        draw = random.Random(f"{self.seed} {index} {self.epoch}")
        return torch.tensor(
            [draw.randrange(VOCABULARY) if draw.random() < self.noise else t for t in tokens]
        )


class Model(nn.Module):
    """Tokens (batch, CONTEXT + 1) to the mean loss (a scalar) of next-token prediction."""

    def __init__(self, width: int, layers: int):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(CONTEXT, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.1, batch_first=True, norm_first=True
        )
        self.blocks = nn.ModuleList(
            nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).layers
        )
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT, device=tokens.device)
        x = self.tokens(tokens[:, :-1]) + self.places.weight
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        return F.cross_entropy(self.head(x).flatten(0, 1), tokens[:, 1:].flatten())


def distribute(model: Model, args: argparse.Namespace, device: torch.device) -> nn.Module:
    if args.fsdp:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model
    if dist.is_initialized():
        return nn.parallel.DistributedDataParallel(
            model, device_ids=[device.index] if device.type == "cuda" else None
        )
    return model


def warm_up_and_decay(step: int, steps: int) -> float:
    """Learning-rate factor: linear over the first tenth of the steps, then a cosine to zero."""
    start = max(1, steps // 10)
    return (
        (step + 1) / start
        if step < start
        else 0.5 * (1 + math.cos(math.pi * min(1.0, (step - start) / max(1, steps - start))))
    )


def warm_up(model: nn.Module, device: torch.device) -> None:
    """Two backward passes before anything is restored; they leave the model's buffers unchanged.

    After the first pass, DDP regroups its gradients, which changes the order of its sums. From
    three ranks on, a resumed job that trains with the first grouping gets other weights.
    """
    buffers = [(b, b.clone()) for b in model.buffers()]
    for _ in range(2):
        model(torch.zeros(2, CONTEXT + 1, dtype=torch.long, device=device)).backward()
    model.zero_grad()
    for b, before in buffers:
        b.data.copy_(before)


@torch.no_grad()
def evaluate(
    model: nn.Module, data: Sequences, ckpt: CheckpointManager, device: torch.device
) -> float | None:
    """Mean loss, equal on every rank (all see the same data); None if the job must stop."""
    model.eval()
    losses: list[float] = []
    for start in range(0, len(data), 64):
        if ckpt.should_stop():
            break
        batch = torch.stack([data[i] for i in range(start, min(start + 64, len(data)))])
        losses.append(model(batch.to(device)).item())
    else:
        model.train()
        return sum(losses) / len(losses)
    return None


def fingerprint(model: nn.Module) -> str:
    """SHA-256 (hex) of the weights: equal for bit-identical runs."""
    digest = hashlib.sha256()
    for value in bare(model).state_dict().values():
        value = value.full_tensor() if hasattr(value, "full_tensor") else value
        digest.update(
            value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


class Progress:
    """A progress bar on a terminal, one line an epoch in a log file; only rank 0 prints."""

    def __init__(self, total: int, log: str | None):
        self.total, self.on = total, not dist.is_initialized() or dist.get_rank() == 0
        self.log = open(log, "a", buffering=1) if log and self.on else None

    def step(self, ckpt: CheckpointManager, loss: float) -> None:
        if self.log:
            self.log.write(f"{ckpt.steps + 1} {loss.hex()}\n")
        if self.on and sys.stderr.isatty():
            done = 30 * (ckpt.steps + 1) // self.total
            print(
                f"\r[{'=' * done:<30}] step {ckpt.steps + 1}/{self.total}  loss {loss:.4f}",
                end="",
                file=sys.stderr,
            )

    def say(self, text: str) -> None:
        if self.on:
            print(("\r\033[K" if sys.stderr.isatty() else "") + text, file=sys.stderr, flush=True)


def main() -> None:
    args = p.parse_args()
    cuda = torch.cuda.is_available()
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    )
    if cuda:
        torch.cuda.set_device(device)
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if cuda else "gloo")
    elif args.fsdp:
        sys.exit(
            "--fsdp needs several ranks: torchrun --nproc-per-node 2 train_with_checkpoint.py "
            "--fsdp"
        )
    status = run(args, device)
    if dist.is_initialized():
        # a DDP model that is freed after its group may hang: free it now
        gc.collect()
        dist.barrier()  # torch 2.6 hangs if a rank destroys its groups after another has left
        dist.destroy_process_group()
    sys.exit(status)


def run(args: argparse.Namespace, device: torch.device) -> int:
    """Run the whole job and return its exit status."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    torch.manual_seed(args.seed)  # the same weights on every rank
    model = distribute(Model(args.width, args.layers).to(device), args, device)
    torch.manual_seed(args.seed + 1000 * rank)  # different dropout on every rank
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    train, val = (
        Sequences(args.samples, args.seed, noise=0.05),
        Sequences(256, args.seed + 1, noise=0.0),
    )
    sampler = ResumableSampler(len(train), args.batch_size, seed=args.seed)
    loader = DataLoader(
        train,
        batch_sampler=sampler,
        num_workers=args.workers,
        worker_init_fn=ignore_signals,
        pin_memory=device.type == "cuda",
    )
    steps = args.epochs * len(sampler)
    # its length isn't part of its state: with another number of ranks, the number of steps changes
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warm_up_and_decay(step, steps)
    )
    progress = Progress(steps, args.trace)

    with CheckpointManager(
        args.directory,
        {"model": model, "optimizer": optimizer, "scheduler": scheduler, "sampler": sampler},
        every_steps=args.save_every_steps,
        every_epochs=1,
        every_minutes=args.save_every_minutes,
        keep=args.keep,
        asynchronous=not args.sync_saves,
    ) as ckpt:
        warm_up(model, device)
        ckpt.resume() if args.resume == "auto" else ckpt.start_over()
        model.train()
        while ckpt.epoch < args.epochs and not ckpt.should_stop():
            train.epoch = ckpt.epoch  # before the workers start: each gets a copy
            for batch in sampler.follow(loader):
                loss = model(batch.to(device, non_blocking=True))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                progress.step(ckpt, loss.item())
                if ckpt.step():
                    break
            else:
                val_loss = evaluate(model, val, ckpt, device)
                if val_loss is not None:
                    ckpt.end_epoch(val_loss)
                    progress.say(
                        f"epoch {ckpt.epoch}/{args.epochs}  step {ckpt.steps}  validation loss "
                        f"{val_loss:.4f}"
                    )
    weights = fingerprint(model)
    progress.say(f"{ckpt.outcome} at step {ckpt.steps}; weights {weights}")
    return ckpt.exit_status


if __name__ == "__main__":
    main()
