"""Reports the batches that a run trains on, and where its generators stand: what a replay of the
run needs.

A run whose student code chooses the batches can't be compared with one that has none. So the grader
trains the reported batches again, without student code (yardstick/replay.py): the same weights and
losses must come out.
"""

from __future__ import annotations

import random

import numpy
import torch

from grader.harness.inside import telemetry


def batch(job, tensors) -> None:
    """Before a step: the batch, and the generators that its forward pass begins with."""
    names = ("indices", "inputs", "targets")
    values = {name: tensor.tolist() for name, tensor in zip(names, tensors, strict=False)}
    telemetry.emit("batch", step=job.step + 1, rng=generators(), **values)


def end() -> None:
    telemetry.emit("generators", rng=generators())


def generators() -> list:
    name, keys, *rest = numpy.random.get_state()
    return [
        random.getstate(),
        [name, keys.tolist(), *rest],
        torch.get_rng_state().numpy().tobytes().hex(),
    ]
