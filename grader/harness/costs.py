"""How long things take in exercise 3's training job, in seconds of its scheduler's clock.

The job lets this time pass. The check calculates with the same numbers, so it doesn't depend on
the life's own clock.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Costs:
    build: float = 1.0  # building the job; resuming takes the same time again
    step: float = 1.0
    part: float = 1.0  # a part of an evaluation
    save: float = 1.0
    slower: float = 1.0  # each save takes this many times as long as the one before
    peak: float = 1.0  # factor for the following ones of a life, by their numbers from 0
    peak_step: float = -1
    peak_save: float = -1
    near: float = 0.0  # with fewer seconds left than this ...
    late_step: float = 0.0  # ... a step or a part of an evaluation takes this long
    late_save: float = 0.0  # ... and a save this long
    rank: float = 1.0  # each rank's steps take this many times as long as the rank's before it

    @classmethod
    def parse(cls, text: str) -> Costs:
        """Parse "step=2,save=6,slower=1.3"."""
        return cls(
            **{k: float(v) for k, v in (part.split("=") for part in text.split(",") if part)}
        )

    def __str__(self) -> str:
        changed = [(f.name, getattr(self, f.name)) for f in fields(self)]
        return ",".join(f"{k}={v:.9g}" for k, v in changed if v != getattr(type(self), k))

    def of_rank(self, rank: int) -> Costs:
        """What this rank's own clock measures."""
        return replace(
            self, step=self.step * self.rank**rank, part=self.part * self.rank**rank, rank=1.0
        )

    def in_units(self, unit: float) -> Costs:
        """The same, if these are given in units of so many seconds."""
        times = ("build", "step", "part", "save", "near", "late_step", "late_save")
        return replace(self, **{name: getattr(self, name) * unit for name in times})

    def takes(self, what: str, number: int, left: float) -> float:
        """Seconds that the life's `number`th (from 0) "step", "part" or "save" takes.

        left  seconds to SIGKILL when it begins
        """
        if left < self.near:
            return self.late_save if what == "save" else self.late_step
        seconds: float = getattr(self, what)
        if what == "save":
            seconds *= self.slower**number
        if number == {"step": self.peak_step, "save": self.peak_save}.get(what):
            seconds *= self.peak
        return seconds


def shown(seconds: float) -> str:
    """Seconds, as a message shows them: with the digits that matter."""
    if abs(seconds) >= 100:
        return f"{seconds:.0f}"
    return f"{round(seconds, 3):.3g}"
