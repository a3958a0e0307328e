"""The options of a CheckpointManager."""

from __future__ import annotations

import math
import numbers
import signal
from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """When to save, how much to keep, and how. ValueError for values that can't work."""

    every_steps: int | None = None
    """Save after each multiple of this many steps."""
    every_epochs: int | None = None
    """Save after each multiple of this many epochs."""
    every_minutes: float | None = None
    """Save when the last save is this long ago. A stop signal and the end of the job's time cause a
    save in any case."""
    keep: int = 3
    """How many intact checkpoints to keep. The best ones and milestones aren't counted."""
    keep_best: int = 1
    """How many of the best checkpoints to keep."""
    keep_every: int | None = None
    """Milestones: checkpoints at multiples of this many steps are never removed."""
    asynchronous: bool = False
    """Copy the state, then write it while training continues."""
    overlap: bool = False
    """With asynchronous=True: copy weights and optimizer state beside the next forward and backward
    pass. The next optimizer step waits for the copy. Nothing but optimizers' step() may change
    weights in between; a save that finds a change fails."""
    gradients: bool = False
    """Also save accumulated gradients (for saves between optimizer steps)."""
    trainable_only: bool = False
    """Leave out the models' frozen parameters (LoRA). Only their digest is saved, and a
    resumed job must have the same ones."""
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGUSR1)
    """Signals that ask for a save and a stop."""
    wait_for_space: float = 0.0
    """Seconds for which a save on a full disk waits for room before it raises."""
    end_time: float | None = None
    """Unix time in seconds at which the job will be killed; None: $SLURM_JOB_END_TIME."""
    margin: float = 30.0
    """Seconds before end_time by which the last save must be durable."""
    timeout: float = 3600.0
    """Seconds after which an unresponsive rank is an error on the others: longer than a save."""
    max_stuck: int = 3
    """Lives in a row without a new checkpoint after which resume() raises."""

    def __post_init__(self) -> None:
        """Refuse now what would fail hours later, at the first save or resume."""
        for name in ("keep", "keep_best"):
            number = getattr(self, name)
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"{name}={number!r}: keep at least one checkpoint")
        if self.overlap and not self.asynchronous:
            raise ValueError("overlap=True: only an asynchronous save overlaps with training")
        for name in ("every_steps", "every_epochs", "every_minutes", "keep_every"):
            value = getattr(self, name)
            if value is None:
                continue
            if not (_is_number(value) and value > 0) or (
                name != "every_minutes" and value != int(value)
            ):
                raise ValueError(f"{name}={value!r}: it must be a positive number or None")
        for name in ("wait_for_space", "margin", "timeout", "max_stuck", "end_time"):
            value = getattr(self, name)
            if not (_is_number(value) and value >= 0) and (name, value) != ("end_time", None):
                raise ValueError(f"{name}={value!r}: it must be a number, and not negative")
        for name in ("asynchronous", "overlap", "gradients", "trainable_only"):
            if (value := getattr(self, name)) not in (True, False):
                raise ValueError(f"{name}={value!r}: it must be True or False")
        self._check_signals()

    def _check_signals(self) -> None:
        known = signal.valid_signals()
        if not isinstance(self.signals, Collection) or not all(s in known for s in self.signals):
            raise ValueError(f"signals={self.signals!r}: give a list such as [signal.SIGUSR2]")
        if cant := {signal.SIGKILL, signal.SIGSTOP} & set(self.signals):
            raise ValueError(f"signals={self.signals!r}: nothing can catch {min(cant).name}")


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not math.isnan(value)
