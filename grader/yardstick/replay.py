"""Trains the batches that another run reported (workload/ex01/report_batches.py), without student
code.

given: "batches" ("batch" events, by step) and "end" (the generators after the last one). The
records are those of a training script; "draws" says with which random numbers each sample must have
been augmented.
"""

import argparse
import random
from typing import Any

import numpy
import torch

from grader.harness.inside import telemetry
from grader.workload import job as workload

p = argparse.ArgumentParser()
p.add_argument("--directory")
p.add_argument("--seed", type=int, required=True)
p.add_argument("--epochs", type=int, required=True)
p.add_argument("--steps-per-epoch", type=int, required=True)


def put_generators(state: list) -> None:
    (version, internal, gauss), (name, keys, *rest), torch_ = state
    random.setstate((version, tuple(internal), gauss))
    numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), *rest))
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(torch_), dtype=torch.uint8))


def draws(codes: torch.Tensor, index: int, inputs: torch.Tensor, targets: torch.Tensor) -> dict:
    """How the dataset may have made this sample: the window's shift, the characters hidden and
    mistyped. "shift" is None if it can't have."""
    found: dict[str, Any] = {"shift": None, "hidden": 0, "mistyped": []}
    for shift in range(8):
        window = codes[4 * index + shift :][: len(inputs) + 1]
        if len(window) == len(inputs) + 1 and torch.equal(window[1:], targets):
            hidden = (inputs == 0).tolist()
            typed = [[n, int(c)] for n, c in enumerate(inputs) if c != 0 and c != window[n]]
            if found["shift"] is None or len(typed) < len(found["mistyped"]):
                found = {
                    "shift": shift,
                    "hidden": sum(h << n for n, h in enumerate(hidden)),
                    "mistyped": typed,
                }
    return found


def main() -> None:
    args = p.parse_args()
    job = workload.build(args.seed, args.epochs, args.steps_per_epoch)
    codes = job.loader.dataset.codes
    telemetry.life(job)
    for reported in telemetry.given("batches"):
        indices, inputs, targets = (
            torch.tensor(reported[name]) for name in ("indices", "inputs", "targets")
        )
        batch = indices, inputs, targets
        put_generators(reported["rng"])
        telemetry.step(job, batch)
        telemetry.emit(
            "draws",
            step=job.step + 1,
            samples=[draws(codes, int(i), x, y) for i, x, y in zip(*batch, strict=False)],
        )
        telemetry.loss(job, job.train_step(batch))
        if job.batch == args.steps_per_epoch:
            job.best = min(job.best, job.validate())
            job.epoch, job.batch = job.epoch + 1, 0
    put_generators(telemetry.given("end"))
    telemetry.end(job)


main()
