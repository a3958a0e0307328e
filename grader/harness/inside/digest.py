"""Digests of training state: equal digests mean equal bits.

They compare values. Files would differ for no reason (an archive holds its own name), and printed
losses would agree wrongly (1, 2 and 4 threads print the same loss and get different weights).
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy
import torch

WORDS = 1 << 15  # of 8 bytes; what quick_digest works on at once stays in a processor's cache
SMALL = 4096  # bytes; adding up fewer takes no less time

_room = threading.local()
Add = Callable[["hashlib.blake2b", numpy.ndarray], None]  # adds an array's bytes to a digest


def digest(value: Any, key: str = "") -> str:
    """16 hex digits for a nested value: tensors by dtype, shape and bytes, floats by their bits.

    key  at most 64 bytes. If a process gets it only now, the digest proves that this process has
         the value itself: an earlier process can't have computed it

    A tuple equals a list of the same items, since JSON-like file formats know only lists.
    Dictionaries are compared as sets of items: their order isn't state.
    """
    h = hashlib.blake2b(digest_size=8, key=key.encode())
    _feed(h, value, _add_bytes)
    return h.hexdigest()


def quick_digest(value: Any) -> str:
    """As `digest`, in a quarter of the time; for values that nobody has an interest in forging.

    Different values have the same digest with a probability of at most 2**-32.
    """
    h = hashlib.blake2b(digest_size=8)
    _feed(h, value, _add_sums)
    return h.hexdigest()


def _feed(h: hashlib.blake2b, value: Any, add: Add) -> None:
    if isinstance(value, torch.Tensor):
        # a DTensor's local shard
        value = value.to_local() if hasattr(value, "to_local") else value
        # as bytes: torch.equal misses -0.0 and rejects NaN
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        h.update(f"tensor {value.dtype} {tuple(value.shape)}:".encode())
        add(h, data.numpy())
    elif isinstance(value, numpy.ndarray):
        h.update(f"array {value.dtype} {value.shape}:".encode())
        add(h, numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8))
    elif isinstance(value, dict):
        h.update(f"dict {len(value)}:".encode())
        for key in sorted(value, key=lambda k: (type(k).__name__, str(k))):
            h.update(f"{type(key).__name__} {key}=".encode())
            _feed(h, value[key], add)
    elif isinstance(value, (list, tuple)):
        h.update(f"list {len(value)}:".encode())
        for item in value:
            _feed(h, item, add)
    elif isinstance(value, bool) or value is None:
        h.update(f"{value};".encode())
    elif isinstance(value, int):
        h.update(f"int {value};".encode())
    elif isinstance(value, float):
        h.update(f"float {value.hex() if math.isfinite(value) else value};".encode())
    else:
        h.update(f"{type(value).__name__} {value!r};".encode())


def _add_bytes(h: hashlib.blake2b, data: numpy.ndarray) -> None:
    h.update(data.data)


def _add_sums(h: hashlib.blake2b, data: numpy.ndarray) -> None:
    """Add two sums of each piece's words, multiplied by random numbers, modulo 2**64.

    A word's highest bit changes only the highest bit of its product, so two changed signs could
    cancel out in the first sum. The second one is that of the words' upper halves.
    """
    if len(data) < SMALL:
        _add_bytes(h, data)
        return
    whole = len(data) // 8 * 8
    words = data[:whole].view(numpy.uint64)
    factors, half = _factors(), numpy.uint64(32)
    product, sums = _own_room()
    for begin in range(0, len(words), WORDS):
        piece = words[begin : begin + WORDS]
        n = len(piece)
        into, by = product[:n], factors[:n]
        numpy.multiply(piece, by, out=into)
        numpy.add.reduce(into, out=sums[0:1], keepdims=True)
        numpy.right_shift(piece, half, out=into)
        numpy.multiply(into, by, out=into)
        numpy.add.reduce(into, out=sums[1:2], keepdims=True)
        h.update(sums.data)
    h.update(data[whole:].data)


def _own_room() -> tuple[numpy.ndarray, numpy.ndarray]:
    """Of this thread, and kept: new memory in each step can change how glibc serves the job's."""
    if not hasattr(_room, "arrays"):
        _room.arrays = numpy.empty(WORDS, numpy.uint64), numpy.empty(2, numpy.uint64)
    product, sums = _room.arrays
    return product, sums


@functools.cache
def _factors() -> numpy.ndarray:
    """Random numbers, the same in each process."""
    generator = numpy.random.Generator(numpy.random.Philox(1))
    return generator.integers(0, 1 << 64, WORDS, dtype=numpy.uint64)


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
