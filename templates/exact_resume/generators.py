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
        state["numpy"] = numpy.random.get_state(legacy=False)  # of any bit generator
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
        saved = state["numpy"]
        if isinstance(saved, list):  # of the first versions
            name, keys, *rest = saved
            saved = (name, keys.numpy().astype("uint32"), *rest)
        numpy.random.set_state(saved)


def _is_generator(part: Any) -> bool:
    others = () if numpy is None else (numpy.random.Generator,)
    return isinstance(part, (torch.Generator, random.Random, *others))


def _generator_state(part: Any) -> Any:
    if isinstance(part, torch.Generator):
        return part.get_state()
    return part.getstate() if isinstance(part, random.Random) else part.bit_generator.state


def _set_generator(part: Any, state: Any) -> None:
    if isinstance(part, torch.Generator):
        part.set_state(state)
    elif isinstance(part, random.Random):
        part.setstate(state)
    else:
        part.bit_generator.state = state
