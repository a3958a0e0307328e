"""The three global generators of a process: read, and restored."""

from __future__ import annotations

import random

import numpy
import torch


def rng() -> tuple:
    """Their states, to be given back to `restore_rng`; a safe load takes them."""
    name, keys, *rest = numpy.random.get_state()
    return random.getstate(), [name, keys.tolist(), *rest], torch.get_rng_state()


def restore_rng(state: tuple) -> None:
    """Restore what `rng` returned."""
    python, (name, keys, *rest), torch_ = state
    random.setstate(python)
    numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), *rest))
    torch.set_rng_state(torch_)
