"""The options of a CheckpointManager."""

from __future__ import annotations

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
    """How many intact checkpoints to keep. The best one isn't counted."""
    asynchronous: bool = False
    """Copy the state, then write it while training continues."""
    gradients: bool = False
    """Also save accumulated gradients (for saves between optimizer steps)."""
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
        if not isinstance(self.keep, int) or self.keep < 1:
            raise ValueError(f"keep={self.keep!r}: keep at least one checkpoint")
        for name in ("every_steps", "every_epochs", "every_minutes"):
            value = getattr(self, name)
            if value is not None and (
                value <= 0 or (name != "every_minutes" and value != int(value))
            ):
                raise ValueError(f"{name}={value!r}: it must be a positive number or None")
