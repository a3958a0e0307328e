"""The states of random number generators."""

from __future__ import annotations

import random
from typing import Any

import torch

from .optional import numpy


def rng_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators and of one for each CUDA device."""
    state: dict[str, Any]
    state = {"python": random.getstate(), "torch": torch.get_rng_state(), "cuda": []}
    if torch.cuda.is_available():
        state |= {"cuda": torch.cuda.get_rng_state_all(), "device": torch.cuda.current_device()}
    if numpy is not None:
        name, keys, *rest = numpy.random.get_state()
        state["numpy"] = [name, torch.from_numpy(keys.astype("int64")), *rest]
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what exists on this machine, which may have fewer GPUs or no NumPy."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    for device, rng in enumerate(
        state["cuda"][: torch.cuda.device_count() if torch.cuda.is_available() else 0]
    ):
        torch.cuda.set_rng_state(rng, device)
    # the current device's state, even if that device has another number now
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][state["device"]], torch.cuda.current_device())
    if numpy is not None and "numpy" in state:
        name, keys, *rest = state["numpy"]
        numpy.random.set_state((name, keys.numpy().astype("uint32"), *rest))
