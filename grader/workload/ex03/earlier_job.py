"""A job that `main` runs before the one that is graded, in the same process: SIGTERM stops it in
its first step.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

STEPS = 4
PARTS = 2  # of an evaluation


class EarlierJob:
    """What the exercise's README says of a job, and nothing else: it holds no model."""

    epochs, save_every = 1, 2

    def __init__(self) -> None:
        self.epoch = self.step = 0

    def batches(self) -> Iterator[int]:
        yield from range(self.step, STEPS)

    def train_step(self, batch: int) -> float:
        signal.raise_signal(signal.SIGTERM)
        self.step += 1
        return 0.0

    def validation_parts(self) -> list[int]:
        return list(range(PARTS))

    def validate(self, part: int) -> float:
        return 0.0

    def end_epoch(self, losses: list[float]) -> None:
        self.epoch += 1

    def save(self) -> None:
        pass

    def resume(self) -> bool:
        return False


def run(main: Callable, beside: str, clock: Callable[[], float]) -> None:
    """In a directory of its own."""
    directory = os.path.join(os.path.dirname(beside), "another job")
    os.makedirs(directory, exist_ok=True)
    with contextlib.suppress(SystemExit):  # its status may be given so, too
        main(EarlierJob, directory, clock, None)
