"""Which faults an audit tries: drawn around an undisturbed life's saves, most telling first."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise, zip_longest

from grader.audit import faults
from grader.audit.faults import FLIP, GRACE, KILL, MISSING, POWER, TEAR, TRUNCATE, Fault
from grader.audit.history import Life, Save
from grader.audit.judge_files import beside, numberless, of_newest_save

MOST_EVENTS = 16  # file events at which the audit kills
# of the newest checkpoint, removed one at a time; and a small file, if there is one
MOST_MISSING = 3  # large files
MOST_STEPS = 8  # steps after which it kills
RECORD = Fault(POWER, "power loss: the saves are recorded", 0)  # stands for the states that follow


@dataclass
class Draw:
    """Draws the faults for a job from an undisturbed life of it."""

    life: Life
    random: random.Random
    grace: float = GRACE
    elastic: int = 0  # ranks to resume on, if another number is asked for

    def __post_init__(self) -> None:
        process = self.life.first
        self.total = len(process.steps)
        self.saves = [save for save in process.saves() if save.step < self.total]
        self.at = sorted(save.step for save in self.saves) or [self.total // 2]
        self.interval = min([b - a for a, b in pairwise(self.at)] or [self.at[0]])
        self.later = self.at[1:] or self.at

    def all(self) -> list[Fault]:
        """The faults to try, most telling first: a budget may end the list early."""
        if self.total < 2:
            return []
        inside = [fault for save in self._fullest() for fault in faults.at_events(save)]
        torn = sorted((f for f in inside if f.kind == TEAR), key=_size, reverse=True)
        whole = [fault for fault in inside if fault.kind == KILL]
        self.random.shuffle(whole)
        chosen = self.random.choice(self.later)
        first = [faults.kill_after(self._after(chosen)), *torn[:1], *self._damage(TRUNCATE)]
        first += [self._send(signal.SIGTERM), *whole[:1], self._twice(), *self._ranks()]
        first += [self._send(signal.SIGUSR1), *self._disk_full()[:1], *([RECORD] * bool(torn))]
        first += [*self._damage(FLIP), *self._damage(MISSING), self._time_limit()]
        rest = zip_longest(
            self._more_kills(chosen)[:MOST_STEPS],
            [*torn[1:], *whole[1:]][:MOST_EVENTS],
            self._disk_full()[1:2],
        )
        more = [fault for several in rest for fault in several if fault is not None]
        return _without_repeats([*first, *more])

    def _after(self, step: int) -> int:
        """A step after this save, where possible two or more, before the next one."""
        latest = max(2, self.interval - 1)
        return min(self.total - 1, step + self.random.randint(min(2, self.interval), latest))

    def _twice(self) -> Fault:
        more = max(1, min(self.interval + 1, (self.total - self.at[0]) // 3))
        return faults.kill_twice(self._after(self.at[0]), more)

    def _send(self, number: signal.Signals) -> Fault:
        return faults.send(number, self._after(self.random.choice(self.at)), self.grace)

    def _time_limit(self) -> Fault:
        step = self._after(self.random.choice(self.at))
        steps = self.life.first.steps
        seconds = steps[step].time - self.life.began if self.life.began else 0.0
        return faults.time_limit(step, self.grace, seconds)

    def _damage(self, kind: str) -> list[Fault]:
        if not self.saves:
            return []
        step = self._after(self.later[-1])
        if kind != MISSING:
            return [faults.damage(kind, step, 0.3 + 0.4 * self.random.random())]
        names = sorted({numberless(f.name) for f in of_newest_save(self.life)})
        small = sorted({numberless(f.name) for f in beside(self.life)} - set(names))
        if len(names) + len(small) < 2:
            return []
        chosen = names[:MOST_MISSING] + self.random.sample(small, min(1, len(small)))
        return [faults.damage(kind, step, file=name) for name in chosen]

    def _disk_full(self) -> list[Fault]:
        more = max(1, min(2, self.interval - 1))
        saves = [save for save in self._fullest() if save.step + more < self.total]
        found = [fault for save in saves for fault in faults.disk_full(save, more)]
        return sorted(found, key=_size, reverse=True)

    def _ranks(self) -> list[Fault]:
        found = []
        if (ranks := len(self.life.ranks)) > 1:
            step = self._after(self.random.choice(self.at))
            found.append(faults.lose_rank(self.random.randrange(ranks), step))
        if self.elastic:
            step = self._after(self.random.choice(self.at))
            found.append(faults.resume_elsewhere(step, self.elastic))
        return found

    def _more_kills(self, chosen: int) -> list[Fault]:
        steps = {self.at[0] - 1, chosen, chosen + 1, self.total - 1}
        steps |= {self._after(step) for step in self.at}
        more = [faults.kill_after(step) for step in sorted(steps) if 0 < step < self.total]
        self.random.shuffle(more)
        return more

    def _fullest(self) -> list[Save]:
        """One save of each kind, and no first one: the first has nothing to overwrite or prune."""
        kinds: dict[frozenset[str], list[Save]] = {}
        for save in self.saves:
            kinds.setdefault(save.files, []).append(save)
        chosen = [same[len(same) // 2 :][0] for same in kinds.values()]
        return sorted(chosen, key=lambda save: -len(save.events))


def _size(fault: Fault) -> int:
    """Of the file that it strikes: the largest is the checkpoint, others may be logs."""
    return int(fault.spec["size"])


def _without_repeats(found: Iterable[Fault]) -> list[Fault]:
    return list({fault.title: fault for fault in found}.values())
