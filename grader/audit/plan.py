"""Which faults an audit tries: drawn around an undisturbed life's saves, most telling first."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Any

from grader.audit.history import Life, Save

GRACE = 30.0  # s between SIGTERM and SIGKILL: Kubernetes' and Slurm's default
MOST_EVENTS = 16  # file events at which the audit kills
MOST_STEPS = 8  # steps after which it kills
KILL, TEAR, SIGNAL, TRUNCATE, TWICE = "kill", "tear", "signal", "truncate", "twice"


@dataclass(frozen=True)
class Fault:
    """What is done to one run. `spec` goes to the probe of its first life, `second` to the next."""

    kind: str
    title: str
    step: int  # the step after which it comes, in the undisturbed run
    spec: dict[str, Any]
    second: dict[str, Any] | None = None

    @property
    def in_a_save(self) -> bool:
        return "event" in self.spec

    @property
    def group(self) -> str:
        """Its row in the table."""
        if self.kind == KILL:
            return "SIGKILL inside a save" if self.in_a_save else "SIGKILL between saves"
        if self.kind == SIGNAL:
            return f"{signal.Signals(self.spec['number']).name}, then SIGKILL after the grace"
        return {
            TEAR: "SIGKILL while a file is written",
            TRUNCATE: "newest checkpoint truncated",
            TWICE: "killed twice, resumed twice",
        }[self.kind]


def kill_after(step: int, kind: str = KILL) -> Fault:
    title = f"SIGKILL after step {step}"
    if kind == TRUNCATE:
        title += ", newest file cut to half"
    return Fault(kind, title, step, {"kind": "kill", "step": step, "rank": 0})


def kill_twice(step: int, more: int) -> Fault:
    second = {"kind": "kill", "step": more, "rank": 0}
    title = f"SIGKILL after step {step}, and after {more} more"
    return Fault(TWICE, title, step, {"kind": "kill", "step": step, "rank": 0}, second)


def send(number: signal.Signals, step: int, grace: float) -> Fault:
    """SIGTERM goes to the process that was started, SIGUSR1 to each rank."""
    rank = 0 if number == signal.SIGTERM else None
    spec = {"kind": "signal", "number": int(number), "step": step, "rank": rank, "grace": grace}
    return Fault(SIGNAL, f"{number.name} after step {step}", step, spec)


def at_events(save: Save) -> list[Fault]:
    """A SIGKILL before each file event of a save, and inside each file that it writes."""
    faults = []
    sizes = [event.size for event in save.events[1:]]
    for event, size in zip_longest(save.events, sizes):
        if event.name.startswith("torch.save ended"):
            continue  # nothing happens between this and the next event
        where = {"event": event.number, "rank": 0}
        written = event.name.rpartition(" ")[2]
        if event.name.startswith(("torch.save begins", "open ")) and (size or 0) > 1:
            assert size
            title = f"SIGKILL when {written} has {size // 2} of {size} bytes (step {save.step})"
            faults.append(
                Fault(TEAR, title, save.step, {"kind": "tear", "bytes": size // 2, **where})
            )
        title = f"SIGKILL before `{event.name}` (step {save.step})"
        faults.append(Fault(KILL, title, save.step, {"kind": "kill", **where}))
    return faults


def draw(life: Life, draw: random.Random, grace: float = GRACE) -> list[Fault]:
    """The faults to try, most telling first: a budget may end the list early."""
    process = life.first
    total = len(process.steps)
    saves = [save for save in process.saves() if save.step < total]
    if total < 2:
        return []
    at = sorted(save.step for save in saves) or [total // 2]
    interval = min([b - a for a, b in pairwise(at)] or [at[0]])
    later = at[1:] or at

    def after(step: int) -> int:
        """A step after this save, where possible two or more, before the next one."""
        return min(total - 1, step + draw.randint(min(2, interval), max(2, interval - 1)))

    chosen = draw.choice(later)
    inside = [fault for save in _fullest(saves, draw) for fault in at_events(save)]
    torn = [fault for fault in inside if fault.kind == TEAR]
    whole = [fault for fault in inside if fault.kind == KILL]
    draw.shuffle(whole)
    first = [kill_after(after(chosen))]
    if saves:
        first += [*torn[:1], kill_after(after(later[-1]), TRUNCATE)]
    first += [send(signal.SIGTERM, after(draw.choice(at)), grace)]
    first += whole[:1]
    first += [kill_twice(after(at[0]), max(1, min(interval + 1, (total - at[0]) // 3)))]
    first += [send(signal.SIGUSR1, after(draw.choice(at)), grace)]
    steps = {at[0] - 1, chosen, chosen + 1, total - 1, *(after(step) for step in at)}
    more = [kill_after(step) for step in sorted(steps) if 0 < step < total]
    draw.shuffle(more)
    rest = [
        fault
        for pair in zip_longest(more[:MOST_STEPS], [*torn[1:], *whole[1:]][:MOST_EVENTS])
        for fault in pair
        if fault is not None
    ]
    return _without_repeats([*first, *rest])


def _fullest(saves: list[Save], draw: random.Random) -> list[Save]:
    """One save of each kind, and no first one: the first has nothing to overwrite or to prune."""
    kinds: dict[frozenset[str], list[Save]] = {}
    for save in saves:
        kinds.setdefault(save.files, []).append(save)
    chosen = [draw.choice(same[1:] or same) for same in kinds.values()]
    return sorted(chosen, key=lambda save: -len(save.events))


def _without_repeats(faults: Iterable[Fault]) -> list[Fault]:
    return list({fault.title: fault for fault in faults}.values())
