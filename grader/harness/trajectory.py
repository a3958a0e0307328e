"""Trajectories: the exact course of a run, and the step at which two of them diverge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

# Causes before consequences: the first one that differs is what was lost.
COMPONENTS = [
    "global step",
    "epoch",
    "position in the epoch",
    "weights",
    "buffers",
    "optimizer",
    "scheduler",
    "learning rate",
    "batch indices",
    "Python RNG",
    "NumPy RNG",
    "torch RNG",
    "augmented inputs",
    "best metric",
    "loss",
]


def order(component: str) -> int:
    # the scheduler sets the optimizer's settings (learning rate, betas)
    name = "learning rate" if component == "optimizer settings" else component
    name = "optimizer" if name.startswith("optimizer") else name
    return COMPONENTS.index(name) if name in COMPONENTS else len(COMPONENTS)


@dataclass(frozen=True)
class Divergence:
    """The first step at which two trajectories differ, and in which components."""

    step: int  # the step; one past the last for the final state
    different: list[str]  # components, causes first
    same: list[str]
    first_after_resume: bool
    got: dict[str, Any] = field(repr=False, default_factory=dict)
    expected: dict[str, Any] = field(repr=False, default_factory=dict)

    @property
    def cause(self) -> str:
        return self.different[0]

    @property
    def roots(self) -> list[str]:
        """What differs, without what only follows from the rest."""
        return [
            c for c in self.different if c not in ("loss", "augmented inputs")
        ] or self.different

    @property
    def component(self) -> str:
        """The cause; all parts of the optimizer count as one."""
        return "optimizer" if self.cause.startswith("optimizer") else self.cause


class Trained(Protocol):
    """What a trajectory needs of a life."""

    @property
    def steps(self) -> list[dict[str, Any]]: ...

    @property
    def resumed_at(self) -> int: ...

    def first(self, event: str) -> dict[str, Any] | None: ...


@dataclass
class Trajectory:
    """Step number -> what the step depended on, and its loss. `resumes`: the steps resumed at."""

    steps: dict[int, dict[str, Any]] = field(default_factory=dict)
    end: dict[str, Any] | None = None
    resumes: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, life: Trained) -> Trajectory:
        end = life.first("end")
        resumes = [life.resumed_at] if life.resumed_at else []
        return cls({s["step"]: s for s in life.steps}, end, resumes)

    def join(self, later: Trajectory) -> Trajectory:
        """This trajectory up to where `later` resumed, then `later`: what the run trained."""
        start = min(later.steps, default=None)
        if start is None:
            start = (later.resumes or [max(self.steps, default=0)])[0] + 1
        kept = {n: s for n, s in self.steps.items() if n < start}
        return Trajectory(kept | later.steps, later.end, self.resumes + later.resumes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trajectory) and self.diverges_from(other) is None

    def diverges_from(self, expected: Trajectory, partly: bool = False) -> Divergence | None:
        """The first step at which this trajectory differs from the expected one, or None.

        partly  compare only the steps that both have
        """
        numbers = (
            self.steps.keys() & expected.steps.keys()
            if partly
            else self.steps.keys() | expected.steps.keys()
        )
        for n in sorted(numbers):
            got, want = self.steps.get(n), expected.steps.get(n)
            if got is None or want is None:
                what = (
                    "steps that were never trained"
                    if got is None
                    else "steps beyond the end of training"
                )
                return Divergence(n, [what], [], n - 1 in self.resumes, got or {}, want or {})
            if found := _compare(n, _flat(got), _flat(want), n - 1 in self.resumes):
                return found
        if partly:
            return None
        last = max(expected.steps, default=0) + 1
        return _compare(last, _flat(self.end), _flat(expected.end), last - 1 in self.resumes)

    def by_component(self, expected: Trajectory) -> dict[str, dict[int, bool]]:
        """Component -> step -> whether it equals the expected one's, causes first.

        Of the steps that both have: where one has none, there is nothing to compare.
        """
        found: dict[str, dict[int, bool]] = {}
        for n in sorted(self.steps.keys() & expected.steps.keys()):
            got, want = _flat(self.steps[n]), _flat(expected.steps[n])
            for name in got.keys() | want.keys():
                found.setdefault(name, {})[n] = got.get(name) == want.get(name)
        return {name: found[name] for name in sorted(found, key=lambda c: (order(c), c))}


def _flat(record: dict[str, Any] | None) -> dict[str, Any]:
    if record is None:
        return {}
    out = dict(record["state"])
    if "indices" in record:
        out["batch indices"] = record["indices"]
    if "loss" in record:
        out["loss"] = record["loss"]
    return out


def _compare(
    step: int, got: dict[str, Any], want: dict[str, Any], resumed: bool
) -> Divergence | None:
    names = sorted(got.keys() | want.keys(), key=lambda c: (order(c), c))
    different = [n for n in names if got.get(n) != want.get(n)]
    if not different:
        return None
    return Divergence(step, different, [n for n in names if n not in different], resumed, got, want)
