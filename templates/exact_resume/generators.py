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
        # of any bit generator; a safe load refuses arrays, so they become tensors
        state["numpy"] = _arrays_as_tensors(numpy.random.get_state(legacy=False))
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
        numpy.random.set_state(_tensors_as_arrays(saved))


SIGNED = {"uint32": "int32", "uint64": "int64"}  # tensors that every version of torch loads


def _arrays_as_tensors(state: Any) -> Any:
    """The same bits: NumPy's generators hold unsigned integers."""
    if isinstance(state, dict):
        return {name: _arrays_as_tensors(value) for name, value in state.items()}
    if numpy is not None and isinstance(state, numpy.ndarray):
        return torch.from_numpy(state.view(SIGNED[state.dtype.name]).copy())
    return state


def _tensors_as_arrays(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _tensors_as_arrays(value) for name, value in state.items()}
    if isinstance(state, torch.Tensor):
        array = state.numpy()
        return array.view(f"u{array.dtype.name}")
    return state


def _is_generator(part: Any) -> bool:
    kinds: tuple[type, ...] = (torch.Generator, random.Random)
    if numpy is not None:
        of_numpy = numpy.random
        kinds += (of_numpy.Generator, of_numpy.RandomState, of_numpy.BitGenerator)
    return isinstance(part, kinds) and not isinstance(part, random.SystemRandom)


def _generator_state(part: Any) -> Any:
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, random.Random):
        return part.getstate()
    if isinstance(part, numpy.random.RandomState):
        return part.get_state(legacy=False)
    return getattr(part, "bit_generator", part).state


def _set_generator(part: Any, state: Any) -> None:
    if isinstance(part, torch.Generator):
        part.set_state(state)
    elif isinstance(part, random.Random):
        part.setstate(state)
    elif isinstance(part, numpy.random.RandomState):
        part.set_state(state)
    else:
        getattr(part, "bit_generator", part).state = state
