"""How long things take in the training job of exercise 3, in seconds of its scheduler's clock.

The job lets this time pass. The check reckons with the same numbers, so that a life's clock isn't
the only witness of its times.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Costs:
    build: float = 1.0  # building the job; resuming takes as long again
    step: float = 1.0
    part: float = 1.0  # of an evaluation
    save: float = 1.0
    slower: float = 1.0  # each save takes so many times as long as the one before
    first: float = 1.0  # a life's first step and first save take so many times as long
    near: float = 0.0  # what begins with less than so many seconds left ...
    last: float = 1.0  # ... takes so many times as long

    @classmethod
    def parse(cls, text: str) -> Costs:
        """Of "step=2,save=6,slower=1.3"."""
        return cls(
            **{k: float(v) for k, v in (part.split("=") for part in text.split(",") if part)}
        )

    def __str__(self) -> str:
        changed = [(f.name, getattr(self, f.name)) for f in fields(self)]
        return ",".join(f"{k}={v:g}" for k, v in changed if v != getattr(type(self), k))

    def takes(self, what: str, number: int, left: float) -> float:
        """Seconds that a "step", "part" or "save" takes: the life's `number`th (from 0) of them,
        begun when `left` seconds are left to SIGKILL.
        """
        seconds: float = getattr(self, what)
        if what == "save":
            seconds *= self.slower**number
        if number == 0 and what != "part":
            seconds *= self.first
        return seconds * self.last if left < self.near else seconds
