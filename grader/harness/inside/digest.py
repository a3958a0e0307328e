"""Digests of training state: equal digests mean equal bits.

Files are never compared (an archive holds its own name), printed losses never either
(1, 2 and 4 threads print the same loss and hold different weights): values are.
"""

from __future__ import annotations

import hashlib
import math
import random
from typing import Any

import numpy
import torch


def digest(value: Any, key: str = "") -> str:
    """16 hex digits over a nested value: tensors by dtype, shape and bytes, floats by their bits.

    A `key` that a process gets only now makes the digest a proof that the process has the value
    itself: an earlier process can't have computed it. At most 64 bytes.

    A tuple equals a list of the same items, since JSON-like file formats know only one of them.
    Dictionaries are compared as sets of items: their order isn't state.
    """
    h = hashlib.blake2b(digest_size=8, key=key.encode())
    _feed(h, value)
    return h.hexdigest()


def _feed(h: hashlib.blake2b, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        # of a DTensor, this rank's shard
        value = value.to_local() if hasattr(value, "to_local") else value
        # a view of bytes rather than torch.equal, which misses -0.0 and rejects NaN
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
    """The three global generators of this process."""
    name, keys, position, *rest = numpy.random.get_state()
    return {
        # 625 integers: ten times faster as one text
        "Python RNG": digest(repr(random.getstate()), key),
        "NumPy RNG": digest([name, keys, int(position), *rest], key),
        "torch RNG": digest(torch.get_rng_state(), key),
    }


def optimizer_digests(optimizer: torch.optim.Optimizer, key: str = "") -> dict[str, str]:
    """One digest per kind of optimizer tensor (exp_avg, exp_avg_sq, step) and one for the
    settings.
    """
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
