"""What StopSignal must do (task 3.1): programs of signals, blocks and looks are drawn here, run by
grader/workload/ex03/function_cases.py, and compared with what the contract says of them."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from grader.checks.questions import Answer, ask
from grader.harness.lab import Lab
from grader.verdicts import Finding, Found, Gist, Inconclusive

TERM, USR1, USR2, HUP, INT = (
    signal.Signals[f"SIG{name}"] for name in ("TERM", "USR1", "USR2", "HUP", "INT")
)
NOTED = (TERM, USR1)  # unless a block names others
KINDS = ("default", "ignored", "own")  # handlers that were there before
ERRORS = (
    "RuntimeError",
    "KeyError",
    "OSError",
    "InterruptedError",
    "ValueError",
    "TimeoutError",
    "MemoryError",
    "StopIteration",
    "KeyboardInterrupt",
    "SystemExit",
    "GeneratorExit",
)
MOST_MOMENTS = 120  # of each part of StopSignal that are struck
WHEN = ("when", "a signal came in a `with StopSignal()` block")


# --- questions ------------------------------------------------------------------------------------


def number_of(name: str) -> int:
    return int(getattr(signal, f"SIG{name}"))


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
        """Each signal at a time of its own, and a look some time after it."""
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
                self.block(), ["around"], *sent, ["around"], ["look"], ["exit"], before=before
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
        come.
        """
        asked = []
        for before in self.mixed(*KINDS):
            operations = [["around"], self.block(), ["exit"], ["look"]]
            for kind in self.mixed(*ERRORS):
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
            *self.passing(*mine, *other),
            ["exit"],
            *self.passing(*mine),
        ]
        return [self.program(*operations)]

    def any_moment(self) -> list[dict]:
        numbers = [int(n) for n in self.mixed(TERM, USR1, USR2)]
        every = {"handler": 1, "enter": 3, "exit": 3, "look": 1}
        return [
            {"ask": "interrupted", "where": where, "numbers": numbers, "time": self.some_time(),
             "from": self.draw.randrange(step), "every": step}
            for where, step in every.items()
        ]  # fmt: skip


ASKED: tuple[str, ...] = (
    "each_noted",
    "first_counts",
    "nothing_else",
    "whole_save",
    "back_again",
    "nested",
    "only_its_own",
    "any_moment",
)


def answers(lab: Lab, name: str) -> list[Answer]:
    """To the questions of one check. All are asked in one life, once a grading."""
    drawn = Draw(lab.bench.seed)
    asked = {each: getattr(drawn, each)() for each in ASKED}
    alone = Lab(
        lab.bench, "handler"
    )  # other checks want it, too, whatever has become of this one's task

    def find() -> list[Answer]:
        return ask(
            alone,
            "ex03/function_cases.py",
            [question for each in ASKED for question in asked[each]],
        )

    found = lab.once(("signal_cases", lab.bench.submission.key), find)
    begin = sum(len(asked[each]) for each in ASKED[: ASKED.index(name)])
    return found[begin : begin + len(asked[name])]


# --- what the contract says -----------------------------------------------------------------------


@dataclass
class Block:
    signals: tuple[int, ...]
    received: int | None = None
    at: float | None = None

    def note(self, number: int, time: float) -> None:
        if self.received is None:
            self.received, self.at = number, time


@dataclass
class Model:
    """The contract: what each look of a program must see."""

    handlers: dict[int, str]
    time: float = 0.0
    made: list[Block] = field(default_factory=list)
    open: list[Block] = field(default_factory=list)
    heard: list[int] = field(default_factory=list)  # by the handlers from before
    sent: list[tuple[int, float]] = field(default_factory=list)

    def enter(self, given: dict) -> None:
        block = Block(NOTED if given["signals"] is None else tuple(given["signals"]))
        self.made.append(block)
        self.open.append(block)

    def send(self, number: int) -> None:
        self.sent.append((number, self.time))
        for block in reversed(self.open):
            if number in block.signals:
                return block.note(number, self.time)
        if self.handlers[number] == "own":
            self.heard.append(number)
        return None

    def table(self) -> dict[int, str]:
        """Of the signals that no block has now."""
        taken = {n for block in self.open for n in block.signals}
        return {
            n: kind
            for n, kind in (self.handlers | {int(INT): "interrupts"}).items()
            if n not in taken
        }


def _given(answer: Answer, think: str, when: tuple[str, str] = WHEN) -> dict:
    """What was reported; a process that a signal killed had no handler for it."""
    if answer.status is not None and -answer.status in NOTED:
        ended = Gist(
            "ended",
            f"{_name(-answer.status)} killed the process: nothing handles it (any more)",
        )
        raise Finding(
            "signal-unhandled",
            [when, ended],
            think=think,
        )
    return answer.given(think, when)


def as_the_contract_says(answer: Answer, think: str) -> None:
    """Compare what the program saw with the model, look by look."""
    values = _given(answer, think)
    _imported_quietly(values)
    question = answer.question
    model = Model({int(n): kind for n, kind in question["before"].items()})
    log = Log(list(values["log"]), model, think)
    around = []
    for name, *given in question["program"]:
        if name == "time":
            model.time = given[0]
        elif name in ("enter", "send"):
            getattr(model, name)(*given)
        elif name == "around":
            around.append(log.next("around"))
        elif name == "look":
            _looks_right(log.next("seen"), model, think)
        else:
            block = model.open.pop()
            _left_right(log.next("left"), given, block, model, think)
    _left_alone(around, values["files"], think)


@dataclass
class Log:
    """What a program logged, entry by entry."""

    entries: list[dict]
    model: Model
    think: str

    def next(self, kind: str) -> dict:
        """Raises a Finding if it isn't of this kind: an error has ended a block before that."""
        entry = self.entries.pop(0) if self.entries else {}
        if kind in entry:
            return entry
        came = entry.get("left")
        found = f"{came[0]}: {came[1]}" if came else "the program broke off"
        rows = [
            *_sent(self.model),
            ("raised", found),
            ("expected", "no error"),
        ]
        raise Finding("handler-error", rows, think=self.think)


def _imported_quietly(values: dict) -> None:
    before, after = values["imported"]
    if before != after:
        raise Finding(
            "import-effects",
            [
                Found("importing your file installs a handler"),
                ("expected", "the `with` block does"),
            ],
        )


def _looks_right(log: dict, model: Model, think: str) -> None:
    for n, block in enumerate(model.made):
        got = log["seen"][n] if n < len(log["seen"]) else None
        if got != [block.received, block.at]:
            raise _misnoted(n, got, block, model, think)
    if log["heard"] != model.heard:
        raise _misheard(log["heard"], model, think)
    _handlers_right(log["handlers"], model, think)


def _sent(model: Model) -> list[tuple[str, str]]:
    blocks = f", in {len(model.made)} blocks" if len(model.made) > 1 else ""
    return [("sent", (", ".join(_name(n) for n, _ in model.sent) or "nothing yet") + blocks)]


def _misnoted(which: int, got: list | None, block: Block, model: Model, think: str) -> Finding:
    """A block's received and at aren't those of the first signal of its own."""
    many = f" of block {which + 1}" if len(model.made) > 1 else ""
    if got is None:
        nothing = Found(f"`with StopSignal() as stop` gives nothing{many}")
        return Finding("signal-misnoted", [*_sent(model), nothing], think=think)
    received, at = got
    if received != block.received:
        name = _name(received) if isinstance(received, int) else received
        rows = [Found(f"received{many} is {name}"), ("expected", _name(block.received))]
    else:
        rows = [
            Found(f"at{many} is {at!r}"),
            ("expected", f"{block.at!r}: the clock's time when {_name(block.received)} came"),
        ]
    late = block.received is not None and received is not None
    return Finding(
        "signal-misnoted",
        [*_sent(model), *rows],
        means="the grace that is left is counted from the wrong moment" if late else "",
        think=think,
    )


def _misheard(heard: list, model: Model, think: str) -> Finding:
    """The handlers from before heard other signals than those that no block had."""
    got, want = (", ".join(map(_name, numbers)) or "none" for numbers in (heard, model.heard))
    extra = len(heard) > len(model.heard)
    return Finding(
        "signal-heard-twice" if extra else "earlier-handler-deaf",
        [
            *_sent(model),
            ("before", "a handler that counts its signals was installed for each of them"),
            Found(f"it heard {got}; expected {want}"),
        ],
        means=(
            "a signal that belongs to the block went to the handler from before, too"
            if extra
            else "after the block, or for signals that it wasn't given, the handler from before is "
            "deaf"
        ),
        think=think,
    )


def _handlers_right(found: dict, model: Model, think: str) -> None:
    expected = model.table()
    wrong = {n: found.get(str(n)) for n, kind in expected.items() if found.get(str(n)) != kind}
    if not wrong:
        return
    number = min(wrong)
    where = "in a block that wasn't given it" if model.open else "after the block"
    rows = [
        Found(
            f"{where}, {_name(number)} has another handler than before "
            f"({wrong[number]}; it was: {expected[number]})",
        ),
    ]
    raise Finding(
        "handlers-not-restored",
        rows,
        means=(
            "what runs next in this process doesn't hear its own signals: it "
            "can't be stopped, or a handler of a job that is gone runs"
        ),
        think=think,
    )


def _left_right(log: dict, error: list, block: Block, model: Model, think: str) -> None:
    came, made = log["left"], log["made"]
    if came != (error or None):
        signalled = f" after {_name(block.received)} had come" if block.received else ""
        raised = f"{error[0]} in the block{signalled}" if error else f"the block ends{signalled}"
        found = f"{came[0]}: {came[1]}" if came else "nothing: the error was swallowed"
        expected = "it goes on to the caller, as it is" if error else "no error"
        raise Finding(
            "block-error-lost" if error else "handler-error",
            [("raised", raised), Found(found), ("expected", expected)],
            think=think,
        )
    if any(
        made.get(str(n)) == "other" and kind != "other"
        for n, kind in model.handlers.items()
        if not model.open
    ):
        raise Finding(
            "handler-too-soon",
            [
                Found("a handler is installed when StopSignal is made"),
                ("expected", "from the `with` block's begin to its end"),
            ],
            think=think,
        )


def _left_alone(around: list, files: list, think: str) -> None:
    if files:
        raise Finding(
            "handler-effects",
            [Found(f"files were touched: {files[0]}"), ("expected", "none")],
            about="files",
            think=think,
        )
    if len(around) < 2 or around[0] == around[1]:
        return
    before, after = (entry["around"] for entry in around)
    what = next(name for name in before if before[name] != after.get(name))
    means = {
        "printed": (
            "a signal that comes while the program itself prints raises "
            "'RuntimeError: reentrant call', in the middle of training"
        ),
        "blocked": "signals that stay blocked reach nobody any more",
    }
    found = (
        f"it printed ({after[what] - before[what]} bytes)"
        if what == "printed"
        else f"it changed: {what}"
    )
    raise Finding(
        "handler-effects", [Found(found)], about=what, means=means.get(what, ""), think=think
    )


def _name(number: int | None) -> str:
    try:
        return "None" if number is None else signal.Signals(number).name
    except ValueError:
        return repr(number)


# --- other questions ------------------------------------------------------------------------------


def real_time(answer: Answer, think: str) -> None:
    """Without arguments: the time is time.time's."""
    values = _given(answer, think)
    number = answer.question["number"]
    if values["received"] != number:
        raise Finding(
            "signal-misnoted",
            [("sent", _name(number)), Found(f"received is {values['received']}")],
            think=think,
        )
    at = values["at"]
    if type(at) not in (int, float) or not values["before"] <= at <= values["after"]:
        rows = [
            ("made", "StopSignal() without a clock"),
            Found(f"at is {at!r}"),
            ("expected", f"time.time() when it came: {values['before']!r}"),
        ]
        raise Finding("signal-time", rows, think=think)


def saved_whole(answer: Answer, think: str) -> None:
    values = _given(answer, think)
    want = [[size, fill, fill] for size, fill in answer.question["tensors"]]
    if values["read"] != want or values["received"] not in answer.question["numbers"]:
        rows = [
            Found(
                f"a checkpoint in whose writing {values['sent']} signals came isn't what was saved",
            ),
        ]
        raise Finding("save-interrupted", rows, think=think)


PLACES = {
    "handler": "in the handler of the first",
    "enter": "as the block began",
    "exit": "as the block ended",
    "look": "while somebody read received and at",
}


def at_any_moment(answer: Answer, think: str) -> None:
    """The signal was noted, or went to the handler from before; nothing hung, and nothing was
    raised.
    """
    question = answer.question
    where = PLACES[question["where"]]
    first, second, third = question["numbers"]
    values = _given(
        answer,
        think,
        (
            "when",
            f"{_name(first)} came, and {_name(second)} {where}"
            if question["where"] == "handler"
            else f"a signal came {where}",
        ),
    )
    allowed = (first, second) if question["where"] == "handler" else (first,)
    if values["retraced"]:
        rows = [Found(f"your code calls sys.settrace {where}, which sends the signals there")]
        raise Inconclusive("no-moment", rows, think="what in your code needs a tracer of its own?")
    if (
        question["where"] != "look" and not values["outcomes"]
    ):  # reading an attribute may be a single moment
        raise Inconclusive("no-moment", [Found(f"no moment {where} at which a signal could come")])
    for found in values["outcomes"]:
        problem = _moment_problem(found, question["where"], allowed, question["time"], third)
        if problem:
            sent = f"{_name(allowed[-1])} {where}, at one of {values['moments']} moments"
            raise Finding(
                "signal-moment",
                [("sent", sent), Found(problem)],
                about=question["where"],
                think=think,
            )


def _moment_problem(found: dict, where: str, allowed: tuple, time: float, third: int) -> str | None:
    if "raised" in found:
        return f"it raised {found['raised']}"
    noted = [[number, time] for number in allowed]
    heard = list(found["heard"])
    if found["after"] in noted and not heard:
        problem = None
    elif where in ("enter", "exit") and found["after"] == [None, None] and heard == list(allowed):
        problem = None  # the handler from before was still, or already, there
    elif found["after"][0] is None and not heard:
        return "it was lost: neither received, nor did the handler from before hear it"
    else:
        problem = (
            f"received and at are {found['after']}, and the handler from before heard "
            f"{[_name(n) for n in heard]}"
        )
    if problem is None and where != "exit" and found["inside"] != found["after"]:
        problem = (
            f"received and at went from {found['inside']} to {found['after']} as the block ended"
        )
    if problem is None and found["late"] != [third]:
        problem = "afterwards, the handler from before isn't back"
    return problem


CHECKED: dict[str, Callable] = {
    "program": as_the_contract_says,
    "real_time": real_time,
    "save": saved_whole,
    "interrupted": at_any_moment,
}


def right(lab: Lab, name: str, think: str) -> None:
    """All answers of one check."""
    for answer in answers(lab, name):
        CHECKED[answer.question["ask"]](answer, think)
