"""Digests of training state: equal digests mean equal bits.

They compare values. Files would differ for no reason (an archive holds its own name), and printed
losses would agree wrongly (1, 2 and 4 threads print the same loss and get different weights).
"""

from __future__ import annotations

import hashlib
import math
import random
from typing import Any

import numpy
import torch


def digest(value: Any, key: str = "") -> str:
    """16 hex digits for a nested value: tensors by dtype, shape and bytes, floats by their bits.

    key  at most 64 bytes. If a process gets it only now, the digest proves that this process has
         the value itself: an earlier process can't have computed it

    A tuple equals a list of the same items, since JSON-like file formats know only lists.
    Dictionaries are compared as sets of items: their order isn't state.
    """
    h = hashlib.blake2b(digest_size=8, key=key.encode())
    _feed(h, value)
    return h.hexdigest()


def _feed(h: hashlib.blake2b, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        # a DTensor's local shard
        value = value.to_local() if hasattr(value, "to_local") else value
        # as bytes: torch.equal misses -0.0 and rejects NaN
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        h.update(f"tensor {value.dtype} {tuple(value.shape)}:".encode())
        h.update(data.numpy().tobytes())
    elif isinstance(value, numpy.ndarray):
        h.update(f"array {value.dtype} {value.shape}:".encode())
        h.update(numpy.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        h.update(f"dict {len(value)}:".encode())
        for key in sorted(value, key=lambda k: (type(k).__name__, str(k))):
            h.update(f"{type(key).__name__} {key}=".encode())
            _feed(h, value[key])
    elif isinstance(value, (list, tuple)):
        h.update(f"list {len(value)}:".encode())
        for item in value:
            _feed(h, item)
    elif isinstance(value, bool) or value is None:
        h.update(f"{value};".encode())
    elif isinstance(value, int):
        h.update(f"int {value};".encode())
    elif isinstance(value, float):
        h.update(f"float {value.hex() if math.isfinite(value) else value};".encode())
    else:
        h.update(f"{type(value).__name__} {value!r};".encode())


def rng_digests(key: str = "") -> dict[str, str]:
    """The digests of this process's three global generators."""
    name, keys, position, *rest = numpy.random.get_state()
    return {
        # 625 integers: ten times faster as one text
        "Python RNG": digest(repr(random.getstate()), key),
        "NumPy RNG": digest([name, keys, int(position), *rest], key),
        "torch RNG": digest(torch.get_rng_state(), key),
    }


def optimizer_digests(optimizer: torch.optim.Optimizer, key: str = "") -> dict[str, str]:
    """One digest per kind of optimizer tensor (exp_avg, exp_avg_sq, step), one for the settings."""
    state = optimizer.state_dict()
    kinds: dict[str, list[object]] = {}
    for index, tensors in sorted(state["state"].items()):
        for kind, tensor in tensors.items():
            kinds.setdefault(kind, []).append([index, tensor])
    settings = [
        {k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]
    ]
    out = {f"optimizer {kind}": digest(tensors, key) for kind, tensors in kinds.items()}
    return out | {"optimizer settings": digest(settings, key)}
