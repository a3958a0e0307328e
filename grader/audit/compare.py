"""Compares recorded lives: which step differs first, and from which step a life continues.

Pure functions on values: nothing here runs or reads anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import takewhile, zip_longest

from grader.audit.history import NOTHING, Life, Step

ACCUMULATED = "accumulated gradients"
# causes before consequences
ORDER = (
    "weights",
    "buffers",
    "optimizer",
    "learning rate",
    "gradient scaler",
    "averaged weights",
    ACCUMULATED,
    "batch",
    "Python RNG",
    "NumPy RNG",
    "torch RNG",
    "CUDA RNG",
    "targets",
    "gradients",
    "loss",
)
GENERATORS = {name for name in ORDER if name.endswith("RNG")}
EACH_PASS = ("batch", "targets", "loss")  # a value for each forward pass, none from another
NO_TENSORS = ("optimizer settings", "optimizer step")  # of what is recorded of an optimizer
# what a checkpoint carries across: equal at the same step of one run, even if two runs differ
CARRIED = (
    *("weights", "buffers", "optimizer", "learning rate"),
    *("gradient scaler", "averaged weights"),
)


def component(name: str) -> str:
    """In the course's words: all parts of the optimizer count as one."""
    return "optimizer" if name.startswith("optimizer") else name


def order(name: str) -> tuple[int, str]:
    # schedulers change other settings, too
    known = "learning rate" if name == "optimizer settings" else component(name)
    return (ORDER.index(known) if known in ORDER else len(ORDER)), name


@dataclass(frozen=True)
class Difference:
    """The first step at which two lives differ, and in what; causes first."""

    step: int  # counted from 1, in the undisturbed run
    names: list[str]
    rank: int = 0
    same: tuple[str, ...] = field(default=(), compare=False)  # what is equal at this step
    reference: str = field(default="the undisturbed run", compare=False)

    @property
    def cause(self) -> str:
        return component(self.names[0])

    @property
    def generators(self) -> list[str]:
        return [name for name in self.names if name in GENERATORS]


# none of these follows from another one before the first step after resuming
INDEPENDENT = (*CARRIED, ACCUMULATED, "batch")


# of an optimizer at its first step after resuming: steps of others don't change it
OWN = ("weights", "optimizer", "learning rate")
# may also follow from the weights of a model that another optimizer trains
FOLLOWS = ("batch", "targets", "gradients", "loss")


def causes(
    found: Difference, resumed: int, expected: Sequence[Step], got: Sequence[Step]
) -> list[Difference]:
    """One for each missing piece of state, of each optimizer; causes first."""
    firsts = list(first_steps(expected, got, resumed, found.rank))
    fresh = found.step == resumed + 1 or found.step in {one.step for one in firsts}
    several = by_cause(found) if fresh else [found]
    more = [one for each in firsts if each.step > found.step for one in by_cause(each)]
    if any(one.cause == "weights" for one in more) and not found.generators:
        several = [one for one in several if one.cause not in FOLLOWS]
    return [*several, *more]


def first_steps(
    expected: Sequence[Step], got: Sequence[Step], resumed: int, rank: int = 0
) -> Iterator[Difference]:
    """What each optimizer but the first one lacks itself, at its first step after resuming."""
    before = {step.optimizer for step in expected[:resumed]}
    seen = {step.optimizer for step in expected[resumed : resumed + 1]}
    for number, (want, have) in enumerate(zip(expected[resumed:], got, strict=False), resumed + 1):
        if want.optimizer in before - seen and not want.shared:
            found = first_difference(expected, [have], number - 1, rank=rank, only=OWN)
            if found is not None:
                yield found
        seen.add(want.optimizer)


def by_cause(found: Difference) -> list[Difference]:
    """One for each missing piece of state, with that piece's names first.

    At the first step after resuming, several may be seen. Later, what one lacks spreads to others.
    """
    components = dict.fromkeys(component(name) for name in found.names)
    several = [cause for cause in components if cause in INDEPENDENT]
    if "optimizer" in several and "learning rate" in several:
        # the optimizer holds the rate
        tensors = any(component(n) == "optimizer" and n not in NO_TENSORS for n in found.names)
        several.remove("learning rate" if tensors else "optimizer")
    if not several:
        return [found]
    return [
        replace(found, names=sorted(found.names, key=lambda name: component(name) != cause))
        for cause in several
    ]


@dataclass(frozen=True)
class Comparable:
    """What two undisturbed runs have in common, and so what can be judged."""

    ignored: frozenset[str] = frozenset()  # generators that training doesn't draw from
    difference: Difference | None = None
    lengths: tuple[int, int] = (0, 0)

    @property
    def reproducible(self) -> bool:
        return self.difference is None and self.lengths[0] == self.lengths[1]


def different(want: Step, got: Step, ignored: Set[str] = frozenset()) -> list[str]:
    if not (want.parts and got.parts):
        return []  # a step that was only counted
    names = (want.parts.keys() | got.parts.keys()) - ignored
    batches, late = _passes(want), _passes(got)
    pairs = zip(reversed(batches), reversed(late), strict=False)
    common = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    # the batches before these were in another life
    cut = 0 < len(late) < len(batches) and common == len(late)
    number = len(late) if cut else len(batches)
    if common and want.parts.get("gradients") == got.parts.get("gradients"):
        number = common  # the passes before these were evaluations, or a life's own warm-up
    found = [n for n in names if _part(want, n, number) != _part(got, n, number)]
    if cut and "gradients" in found:  # otherwise they were passes of an evaluation
        found.append(ACCUMULATED)
    return sorted(found, key=order)


def _passes(step: Step) -> list[tuple[str, str]]:
    """What each forward pass of a step was given."""
    batches, targets = (step.parts.get(name, "").split() for name in ("batch", "targets"))
    return list(zip_longest(batches, targets, fillvalue=""))


def _part(step: Step, name: str, number: int) -> object:
    """What counts of a part that has a value for each of the step's `number` forward passes.

    A life may begin with passes of its own before it resumes, such as a warm-up: they don't count.
    Buffers and generators count as they were before the first pass: the later ones follow from it.
    """
    value = step.parts.get(name)
    if not (name in GENERATORS or name in (*EACH_PASS, "buffers")):
        return value
    values = (value or "").split()[-number:]  # all, if there was no pass
    found = values if name in EACH_PASS else values[:1]
    return found if set(found) - {NOTHING} else []


def compare_undisturbed(a: Life, b: Life) -> Comparable:
    """Is a second undisturbed run equal to the first?"""
    ignored = {
        name
        for name in GENERATORS
        if all(
            len({step.parts.get(name) for step in process.steps}) < 2
            for process in a.ranks.values()
        )
    }
    found = [
        first_difference(a.ranks[rank].steps, b.ranks[rank].steps, 0, frozenset(ignored), rank)
        for rank in sorted(a.ranks.keys() & b.ranks.keys())
    ]
    # a generator that differs and changes nothing else isn't one that training depends on
    every = [names for rank in a.ranks for names in _all_differences(a, b, rank, ignored)]
    if every and all(set(names) <= GENERATORS for names in every):
        ignored |= {name for names in every for name in names}
        found = []
    differences = sorted((d for d in found if d), key=lambda d: d.step)
    return Comparable(
        frozenset(ignored),
        differences[0] if differences else None,
        (len(a.first.steps), len(b.first.steps)),
    )


def _all_differences(a: Life, b: Life, rank: int, ignored: set[str]) -> list[list[str]]:
    if rank not in b.ranks:
        return [["weights"]]
    pairs = zip(a.ranks[rank].steps, b.ranks[rank].steps, strict=False)
    return [names for x, y in pairs if (names := different(x, y, ignored))]


def first_difference(
    expected: Sequence[Step],
    got: Sequence[Step],
    start: int,
    ignored: Set[str] = frozenset(),
    rank: int = 0,
    only: Sequence[str] | None = None,
) -> Difference | None:
    """The first step of `got` that differs from expected[start:], of those that both have."""
    for number, (want, have) in enumerate(zip(expected[start:], got, strict=False), start + 1):
        every = different(want, have, ignored)
        names = [name for name in every if only is None or component(name) in only]
        if names:
            differ = {component(name) for name in every}
            both = want.parts.keys() & have.parts.keys() - ignored
            same = {component(name) for name in both if set(want.parts[name].split()) - {NOTHING}}
            return Difference(number, names, rank, tuple(sorted(same - differ, key=order)))
    return None


def place(reference: Sequence[Step], first: Step) -> int | None:
    """How many steps were done where a life continued: found by its weights, not by a counter.

    Weights repeat where a step changes nothing, such as one with a learning rate of 0: then the
    step that agrees in most components counts, and of equal ones the latest.
    """
    if not first.parts:
        return None

    def alike(n: int) -> tuple[int, bool, int]:
        step = reference[n]
        return -len(different(step, first)), step.optimizer == first.optimizer, n

    same = [n for n, step in enumerate(reference) if step.weights == first.weights]
    at = max(same, key=alike, default=None)
    if at:
        return at
    # initial or unknown weights, and all else continues: then it is the weights that were lost
    others = [n for n in range(1, len(reference)) if _continues(reference, n, first, at == 0)]
    return max(others, key=alike, default=at)


def _continues(reference: Sequence[Step], n: int, first: Step, initial: bool) -> bool:
    """Is all but the weights of `first` where it was after n steps? By the optimizer's tensors, or
    by the batch if the weights are the initial ones.
    """
    tensors = [k for k in first.parts if component(k) == "optimizer" and k not in NO_TENSORS]
    telling = tensors or ["batch"] * initial

    def agrees(step: Step) -> bool:
        return all(step.parts.get(name) == first.parts.get(name) for name in telling)

    return bool(telling) and agrees(reference[n]) and not (initial and agrees(reference[0]))


def origin(reference: Sequence[Step], name: str, got: Step, near: int) -> int | None:
    """The step of `reference`, counted from 1, whose part is that of `got`; the nearest one."""
    value = got.parts.get(name)
    same = [n for n, step in enumerate(reference, 1) if value and step.parts.get(name) == value]
    return min(same, key=lambda n: abs(n - near), default=None)
