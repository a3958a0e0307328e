"""A tiny decoder-only transformer: everything that a real one has, in 15 thousand parameters.

It also keeps a running mean, as BatchNorm does: a buffer that the forward pass uses, not a
parameter.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from grader.workload.data import CONTEXT, VOCABULARY

WIDTH, HEADS = 32, 2


class Block(nn.Module):
    def __init__(self, dropout: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            self.qkv(self.norm1(x))
            .view(batch, length, 3 * HEADS, -1)
            .transpose(1, 2)
            .chunk(3, dim=1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class Centre(nn.Module):
    """Subtracts the running mean of its training inputs, shape (WIDTH,)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean((0, 1)), 0.1)
        return x - self.mean


class Transformer(nn.Module):
    """Codes (batch, length) to logits (batch, length, VOCABULARY)."""

    def __init__(self, dropout: float, running_mean: bool = True):
        super().__init__()
        self.letters, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.block, self.centre, self.norm = (
            Block(dropout),
            Centre() if running_mean else nn.Identity(),
            nn.LayerNorm(WIDTH),
        )
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        places = torch.arange(codes.shape[1], device=codes.device)
        x = self.dropout(self.letters(codes) + self.places(places))
        return self.head(self.norm(self.centre(self.block(x))))
