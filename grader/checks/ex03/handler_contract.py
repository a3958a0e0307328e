"""StopSignal's contract as a model, and how an answer differs from it."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from grader.checks.ex03.handler_questions import HUP, INT, NOTED, USR2
from grader.checks.questions import Answer
from grader.verdicts import Finding, Found, Gist

WHEN = ("when", "a signal came in a `with StopSignal()` block")


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
        """For the signals that no block handles now."""
        taken = {n for block in self.open for n in block.signals}
        return {
            n: kind
            for n, kind in (self.handlers | {int(INT): "interrupts"}).items()
            if n not in taken
        }


def values_of(answer: Answer, think: str, when: tuple[str, str] = WHEN) -> dict:
    """The reported values; a process that a signal killed had no handler for it."""
    if answer.status is not None and -answer.status in (*NOTED, USR2, HUP, INT):
        ended = Gist(
            "ended",
            f"{signal_name(-answer.status)} killed the process: nothing handles it (any more)",
        )
        raise Finding(
            "signal-unhandled",
            [when, ended],
            think=think,
        )
    return answer.given(think, when)


def as_the_contract_says(answer: Answer, think: str) -> None:
    """Compare what the program saw with the model, look by look."""
    values = values_of(answer, think)
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
        elif name == "buffer":
            pass  # seen around it
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
        """Raises a Finding if it isn't of this kind: an error has already ended a block."""
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
    return [("sent", (", ".join(signal_name(n) for n, _ in model.sent) or "nothing yet") + blocks)]


def _misnoted(which: int, got: list | None, block: Block, model: Model, think: str) -> Finding:
    """A block's `received` and `at` aren't those of its own first signal."""
    many = f" of block {which + 1}" if len(model.made) > 1 else ""
    if got is None:
        nothing = Found(f"`with StopSignal() as stop` gives nothing{many}")
        return Finding("signal-misnoted", [*_sent(model), nothing], think=think)
    received, at = got
    if received != block.received:
        name = signal_name(received) if isinstance(received, int) else received
        rows = [Found(f"received{many} is {name}"), ("expected", signal_name(block.received))]
    else:
        rows = [
            Found(f"at{many} is {at!r}"),
            ("expected", f"{block.at!r}: the clock's time when {signal_name(block.received)} came"),
        ]
    late = block.received is not None and received is not None
    return Finding(
        "signal-misnoted",
        [*_sent(model), *rows],
        means="the remaining grace is counted from the wrong moment" if late else "",
        think=think,
    )


def _misheard(heard: list, model: Model, think: str) -> Finding:
    """The earlier handlers got other signals than those that no block handled."""
    got, want = (", ".join(map(signal_name, numbers)) or "none" for numbers in (heard, model.heard))
    extra = len(heard) > len(model.heard)
    return Finding(
        "signal-heard-twice" if extra else "earlier-handler-deaf",
        [
            *_sent(model),
            ("before", "a handler that counts its signals was installed for each of them"),
            Found(f"it heard {got}; expected {want}"),
        ],
        means=(
            "a signal that belongs to the block also went to the earlier handler"
            if extra
            else "after the block, or for signals that it wasn't given, the earlier handler gets "
            "no signals"
        ),
        think=think,
    )


def _handlers_right(found: dict, model: Model, think: str) -> None:
    expected = model.table()
    wrong = {n: found.get(str(n)) for n, kind in expected.items() if found.get(str(n)) != kind}
    if not wrong:
        return
    number = min(wrong)
    where = "in a block that doesn't handle it" if model.open else "after the block"
    rows = [
        Found(
            f"{where}, {signal_name(number)} has another handler than before "
            f"({wrong[number]}; it was: {expected[number]})",
        ),
    ]
    raise Finding(
        "handlers-not-restored",
        rows,
        means=(
            "code that runs next in this process doesn't get its signals: it can't be stopped, or "
            "the handler of a job that is over runs"
        ),
        think=think,
    )


def _left_right(log: dict, error: list, block: Block, model: Model, think: str) -> None:
    came, made = log["left"], log["made"]
    if came != (error or None):
        signalled = f" after {signal_name(block.received)} had come" if block.received else ""
        raised = f"{error[0]} in the block{signalled}" if error else f"the block ends{signalled}"
        found = f"{came[0]}: {came[1]}" if came else "nothing: the error was swallowed"
        expected = "it reaches the caller unchanged" if error else "no error"
        raise Finding(
            "block-error-lost" if error else "handler-error",
            [("raised", raised), Found(found), ("expected", expected)],
            think=think,
        )
    if not log["same"]:
        rows = [
            ("raised", f"{error[0]} in the block"),
            Found("another object of this type, with the same message"),
            ("expected", "it reaches the caller unchanged"),
        ]
        means = "what the error held besides its message is lost: its cause, its attributes"
        raise Finding("block-error-lost", rows, means=means, think=think)
    if error and log["holds"] != (
        unchanged := {"arguments": [error[1]], "notes": [], "cause": None}
    ):
        what = next(name for name in unchanged if log["holds"].get(name) != unchanged[name])
        rows = [
            ("raised", f"{error[0]} in the block"),
            Found(f"the same object, with other {what}: {log['holds'].get(what)}"),
            ("expected", "it reaches the caller unchanged"),
        ]
        means = "code that looks at the error, such as a retry or a test, sees another one"
        raise Finding("block-error-lost", rows, means=means, think=think)
    if any(
        made.get(str(n)) == "other" and kind != "other"
        for n, kind in model.handlers.items()
        if not model.open
    ):
        raise Finding(
            "handler-too-soon",
            [
                Found("a handler is installed when StopSignal is made"),
                ("expected", "from the start of the `with` block to its end"),
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
            "a signal that comes while the program is printing raises "
            "'RuntimeError: reentrant call', in the middle of training"
        ),
        "flushed": (
            "a signal that comes while the program is flushing raises "
            "'RuntimeError: reentrant call', in the middle of training"
        ),
        "blocked": (
            "signals that stay blocked never arrive"
            if set(after["blocked"]) - set(before["blocked"])
            else "signals that the program had blocked interrupt it all the same"
        ),
        "open files": "when a thousand are open, the next open fails: that of a save, too",
    }
    found = (
        f"it printed ({after[what] - before[what]} bytes)"
        if what == "printed"
        else "it flushed what was waiting to be printed"
        if what == "flushed"
        else f"it changed: {what}"
    )
    raise Finding(
        "handler-effects", [Found(found)], about=what, means=means.get(what, ""), think=think
    )


def signal_name(number: int | None) -> str:
    try:
        return "None" if number is None else signal.Signals(number).name
    except ValueError:
        return repr(number)
