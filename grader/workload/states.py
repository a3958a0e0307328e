"""States for the storage functions of exercise 1 to save."""

from __future__ import annotations

import random

import torch


def made_state(seed: int, step: int) -> dict:
    """A state as a training job would save it, different in every value for another step."""
    draw = random.Random(f"{seed} {step}")
    generator = torch.Generator().manual_seed(draw.getrandbits(60))

    def tensor(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=generator).to(dtype)

    return {
        "model": {"weight": tensor(96, 64), "half": tensor(32, dtype=torch.bfloat16), "mask": tensor(9) > 0},
        "optimizer": {
            "state": {0: {"step": tensor(), "exp_avg": tensor(96, 64)}, 1: {"step": tensor()}},
            "param_groups": [{"lr": draw.random(), "betas": (0.9, draw.random()), "params": [0, 1], "foreach": None}],
        },
        "rng": (3, tuple(draw.getrandbits(32) for _ in range(20)), None),
        "counts": torch.tensor([step, draw.getrandbits(40)]),
        "step": step,
        "best": float("inf"),
        "note": f"after step {step}",
    }
