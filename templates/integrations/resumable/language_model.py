#!/usr/bin/env python3
"""A small GPT, trained as nanoGPT trains: steps without epochs, random windows of one long text."""

import argparse
import math
from pathlib import Path

import torch
from checkpoint_utils import CheckpointManager
from torch import nn
from torch.nn import functional as F

p = argparse.ArgumentParser(description=__doc__)
p.add_argument("--out-dir", type=Path, required=True)
p.add_argument("--max-iters", type=int, default=2000)
p.add_argument("--eval-interval", type=int, default=200)
p.add_argument("--eval-iters", type=int, default=10)
p.add_argument("--log-interval", type=int, default=1)
p.add_argument("--batch-size", type=int, default=16)
p.add_argument("--block-size", type=int, default=32)
p.add_argument("--n-embd", type=int, default=32)
p.add_argument("--n-layer", type=int, default=2)
p.add_argument("--learning-rate", type=float, default=3e-3)
p.add_argument("--warmup-iters", type=int, default=100)
p.add_argument("--grad-clip", type=float, default=1.0)
args = p.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(1337)
VOCABULARY = 64
text = torch.arange(20_000).pow(2).remainder(61)
data = {"train": text[:18_000], "val": text[18_000:]}


def get_batch(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    starts = torch.randint(len(data[split]) - args.block_size, (args.batch_size,)).tolist()
    x = torch.stack([data[split][i : i + args.block_size] for i in starts])
    y = torch.stack([data[split][i + 1 : i + 1 + args.block_size] for i in starts])
    return x.to(device, non_blocking=True), y.to(device, non_blocking=True)


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(VOCABULARY, args.n_embd)
        self.wpe = nn.Embedding(args.block_size, args.n_embd)
        layer = nn.TransformerEncoderLayer(
            args.n_embd, 4, 4 * args.n_embd, 0.1, F.gelu, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, args.n_layer, enable_nested_tensor=False)
        self.ln_f = nn.LayerNorm(args.n_embd)
        for embedding in (self.wte, self.wpe):
            nn.init.normal_(embedding.weight, std=0.02)
        self.lm_head = nn.Linear(args.n_embd, VOCABULARY, bias=False)
        self.lm_head.weight = self.wte.weight  # tied

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        h = self.blocks(self.wte(x) + self.wpe.weight[: x.shape[1]], mask=mask, is_causal=True)
        return F.cross_entropy(self.lm_head(self.ln_f(h)).flatten(0, 1), y.flatten())


def get_lr(iter_num: int) -> float:
    if iter_num < args.warmup_iters:
        return args.learning_rate * (iter_num + 1) / (args.warmup_iters + 1)
    done = (iter_num - args.warmup_iters) / max(1, args.max_iters - args.warmup_iters)
    return 0.1 * args.learning_rate * (5.5 + 4.5 * math.cos(math.pi * done))


@torch.no_grad()
def estimate_loss() -> dict[str, float]:
    model.eval()
    losses = {
        split: sum(model(*get_batch(split)).item() for _ in range(args.eval_iters))
        / args.eval_iters
        for split in data
    }
    model.train()
    return losses


model = GPT().to(device)
decay = [w for w in model.parameters() if w.dim() >= 2]
no_decay = [w for w in model.parameters() if w.dim() < 2]
groups = [{"params": decay, "weight_decay": 0.1}, {"params": no_decay, "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.95))
args.out_dir.mkdir(parents=True, exist_ok=True)

state = {"model": model, "optimizer": optimizer}
with CheckpointManager(args.out_dir / "ckpt", state, every_steps=20) as ckpt:
    ckpt.resume()
    iter_num = ckpt.steps
    while iter_num < args.max_iters and not ckpt.should_stop():
        X, Y = get_batch("train")
        for group in optimizer.param_groups:
            group["lr"] = get_lr(iter_num)
        if iter_num % args.eval_interval == 0:
            losses = estimate_loss()
            print(f"eval {iter_num}: train {losses['train']:.6f}, val {losses['val']:.6f}")
            if losses["val"] < ckpt.best:
                ckpt.best = losses["val"]
                torch.save(model.state_dict(), args.out_dir / "best.pt")
        loss = model(X, Y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if iter_num % args.log_interval == 0:
            print(f"iter {iter_num}: loss {loss.item():.6f}")
        iter_num += 1
        ckpt.step()
if ckpt.exit_status:
    raise SystemExit(ckpt.exit_status)
torch.save(model.state_dict(), args.out_dir / "final.pt")
