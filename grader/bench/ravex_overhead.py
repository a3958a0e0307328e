"""What ravex adds to training: `python -m grader.bench.ravex_overhead ROWS ROUNDS`.

ravex has no save to be called, so it isn't in the table of savers. Its decorator saves every 10
steps here, as its README says, into the current directory. Training with and without it is timed
in turn.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import torch

from grader.bench.savers import MIB, training_state


def train(rows: int, steps: int) -> float:
    """Seconds for some steps of a compute-bound model."""
    torch.manual_seed(0)
    model, optimizer = training_state(16 * MIB)
    x = torch.randn(rows, 1024)
    began = time.perf_counter()
    for _ in range(steps):
        model(x).backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - began


def measure(rows: int, rounds: int) -> float:
    """Extra training time, as a share."""
    import ravex

    with_ravex = ravex.train_loop(checkpoint_every=10, keep_last=2, resume=False)(train)
    times: dict[str, list[float]] = {"none": [], "ravex": []}
    for n in range(rounds + 1):
        for name, run in (("none", train), ("ravex", with_ravex)):
            seconds = run(rows, 30)
            if n:
                times[name].append(seconds)
    return statistics.median(times["ravex"]) / statistics.median(times["none"]) - 1


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))
