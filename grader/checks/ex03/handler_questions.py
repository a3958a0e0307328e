"""What StopSignal is asked (task 3.1): programs of signals, blocks and looks, drawn per grading."""

from __future__ import annotations

import builtins
import random
import signal

TERM, USR1, USR2, HUP, INT = (
    signal.Signals[f"SIG{name}"] for name in ("TERM", "USR1", "USR2", "HUP", "INT")
)
NOTED = (TERM, USR1)  # unless a block names others
KINDS = ("default", "ignored", "own")  # handlers that were there before
NOT_BY_A_TEXT = (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError)
# every built-in one that can be made of a text, and one that isn't built in
ERRORS = (
    *(
        name
        for name, kind in vars(builtins).items()
        if isinstance(kind, type)
        and issubclass(kind, BaseException)
        and kind.__name__ == name  # IOError is another name for OSError
        and not issubclass(kind, (Warning, *NOT_BY_A_TEXT))
        and not name.endswith("ExceptionGroup")
    ),
    "CancelledError",
)


class Draw:
    """The questions of one grading."""

    def __init__(self, seed: int):
        self.draw = random.Random(f"{seed} handler")
        self.time = self.draw.choice([0.0, 1_700_000_000.0]) + self.draw.choice([0.0, 0.25, 0.375])

    def mixed(self, *items) -> list:
        return self.draw.sample(items, len(items))

    def some_time(self) -> float:
        """A later time; a fraction of a second counts."""
        self.time += self.draw.randrange(1, 4000) / 64
        return self.time

    def error(self, kind: str | None = None) -> list:
        return ["raise", kind or self.draw.choice(ERRORS), f"{self.draw.getrandbits(32):08x}"]

    def block(self, signals: tuple | None = None) -> list:
        shape = self.draw.choice(["tuple", "list", "set"])
        return [
            "enter",
            {"signals": None if signals is None else [int(n) for n in signals], "shape": shape},
        ]

    def passing(self, *numbers: int) -> list[list]:
        """Each signal at its own time, and a look some time after it."""
        operations: list[list] = []
        for number in numbers:
            operations += [
                ["time", self.some_time()],
                ["send", int(number)],
                ["time", self.some_time()],
                ["look"],
            ]
        return operations

    def program(self, *operations: list, before: str = "own", others: str = "own") -> dict:
        """`before`: what was installed for the signals that are noted by default; `others`: for the
        others.
        """
        table = {int(n): before for n in NOTED} | {int(n): others for n in (USR2, HUP)}
        started = [["time", self.time], *operations]
        return {
            "ask": "program",
            "program": started,
            "before": table,
            "seed": self.draw.getrandbits(30),
        }

    # what is asked, for each check

    def each_noted(self) -> list[dict]:
        asked = [{"ask": "real_time", "number": int(self.draw.choice(NOTED))}]
        for number in self.mixed(*NOTED):
            sent = [["look"], *self.passing(number), ["exit"], ["look"]]
            asked.append(self.program(self.block(), *sent, before=self.draw.choice(KINDS)))
        return asked

    def first_counts(self) -> list[dict]:
        first, second = self.mixed(*NOTED)
        later = [self.draw.choice(NOTED) for _ in range(4)]
        asked = []
        for time in (self.some_time(), 0.0):  # a clock may say 0
            sent = [["time", time], ["send", int(first)], *self.passing(second, first, *later)]
            asked.append(
                self.program(
                    self.block(), *sent, ["exit"], ["look"], before=self.draw.choice(KINDS)
                )
            )
        return asked

    def nothing_else(self) -> list[dict]:
        sent = [["send", int(n)] for n in self.mixed(TERM, USR1, TERM)]
        return [
            self.program(
                self.block(),
                ["around"],
                ["buffer"],
                *sent,
                ["around"],
                ["look"],
                ["exit"],
                before=before,
            )
            for before in ("own", "default")
        ]

    def whole_save(self) -> list[dict]:
        tensors = [
            [self.draw.randrange(1000, 3000), float(self.draw.randrange(1, 1 << 20))]
            for _ in range(8)
        ]
        return [
            {"ask": "save", "tensors": tensors, "numbers": [int(n) for n in self.mixed(*NOTED)]}
        ]

    def back_again(self) -> list[dict]:
        """After a block, after one that raised, and after one that raised when a signal had
        come. Each kind of error is raised with one of the handlers from before.
        """
        asked, errors = [], self.mixed(*ERRORS)
        for n, before in enumerate(self.mixed(*KINDS)):
            operations = [["around"], self.block(), ["exit"], ["look"]]
            for kind in errors[n :: len(KINDS)]:
                operations += [self.block(), self.error(kind), ["look"]]
                operations += [
                    self.block(),
                    *self.passing(self.draw.choice(NOTED)),
                    self.error(kind),
                    ["look"],
                ]
            if before == "own":
                operations += self.passing(*NOTED)
            asked.append(self.program(*operations, ["around"], before=before))
        return asked

    def nested(self) -> list[dict]:
        first, second = self.mixed(*NOTED)
        inner = [self.block(), *self.passing(first), ["exit"], ["look"]]
        sooner = [self.block(), *inner, *self.passing(second), ["exit"], *self.passing(first)]
        outer_first = [
            self.block(),
            *self.passing(first),
            self.block(),
            *self.passing(second),
            self.error(),
        ]
        return [
            self.program(*sooner, self.block(), ["look"], ["exit"], *self.passing(second)),
            self.program(
                *outer_first, *self.passing(second), ["exit"], ["look"], *self.passing(*NOTED)
            ),
        ]

    def only_its_own(self) -> list[dict]:
        mine = self.draw.choice([(USR2,), (HUP,), (USR2, HUP), (HUP, TERM)])
        other = [n for n in (TERM, USR1, USR2, HUP) if n not in mine]
        self.draw.shuffle(other)
        operations = [
            self.block(mine),
            *self.passing(*other),
            *self.passing(*mine, *other, *mine),
            ["exit"],
            *self.passing(*mine),
        ]
        none = [self.block(()), *self.passing(*other), ["exit"], ["look"]]
        interrupts = [
            self.block(tuple(self.mixed(INT, HUP))),
            *self.passing(*self.mixed(INT, HUP), INT),
            ["exit"],
            ["look"],
        ]
        return [self.program(*operations), self.program(*none), self.program(*interrupts)]

    def any_moment(self) -> list[dict]:
        numbers = [int(n) for n in self.mixed(TERM, USR1, USR2)]
        every = {"handler": 1, "enter": 3, "exit": 3, "look": 1}
        return [
            {"ask": "interrupted", "where": where, "numbers": numbers, "time": self.some_time(),
             "from": self.draw.randrange(step), "every": step}
            for where, step in every.items()
        ]  # fmt: skip
